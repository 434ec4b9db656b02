"""What can be trained: one config class an architecture, told apart by `kind`.

A new architecture is a class here, its name in `DictionaryConfig`, and a file of `sparse_rep.saes` called after its kind.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import Discriminator, Field, Tag, model_validator

from sparse_rep.config_base import Config
from sparse_rep.errors import ConfigError


class DictionarySettings(Config):
    """What every architecture has."""

    sparsity_field: ClassVar[str]
    """The setting that decides how sparse the codes are."""

    kind: Any
    """Architecture; each class below names its own."""
    n_latents: int = Field(default=4608, ge=1)
    """Dictionary size m."""
    dead_after_tokens: int = Field(default=100_000, ge=1)
    """Tokens without firing after which a latent counts as dead. Gao et al. use 10 million; small corpora need less."""

    def label(self) -> str:
        """Kind, size and sparsity in one word, for names: topk4608-k32."""
        return f"{self.kind}{self.n_latents}-{self.sparsity_field}{getattr(self, self.sparsity_field):g}"


class EncoderSettings(DictionarySettings):
    """What every architecture with an encoder matrix has; matching pursuit has none."""

    skip: bool = False
    """Transcoders only: a linear map from input to target beside the latents (Paulo et al. 2025, arXiv 2501.18823)."""


class AuxKSettings(EncoderSettings):
    """What the TopK family shares: k, and AuxK against dead latents."""

    sparsity_field: ClassVar[str] = "k"

    k: Any
    """Active latents a token."""
    aux_coefficient: float = Field(default=1 / 32, ge=0)
    """Weight of the AuxK loss that revives dead latents (Gao et al., A.2). 0 switches it off."""
    k_aux: int | None = Field(default=None, ge=1)
    """Dead latents used by AuxK a token; None means d_in / 2 (Gao et al., B.1)."""

    @model_validator(mode="after")
    def _k_fits(self) -> Self:
        if self.k > self.n_latents:
            raise ValueError(f"k={self.k:g} exceeds n_latents={self.n_latents}; lower k or widen the dictionary")
        return self


class TopKConfig(AuxKSettings):
    """TopK dictionary (Gao et al. 2024, arXiv 2406.04093): exactly k latents a token."""

    kind: Literal["topk"] = "topk"
    """Architecture."""
    k: int = Field(default=32, ge=1)
    """Active latents a token."""


class BatchSettings(AuxKSettings):
    """What selection over a whole batch needs."""

    k: float = Field(default=32, gt=0)
    """Active latents a token, on average over a training batch; need not be whole."""
    threshold_rate: float = Field(default=0.01, gt=0, le=1)
    """Weight of the newest batch in the running mean that becomes the threshold (SAELens' default)."""


class BatchTopKConfig(BatchSettings):
    """BatchTopK dictionary (Bussmann et al. 2024, arXiv 2412.06410): k latents a token on average over a batch.

    Trained, it uses one threshold for all latents, so that a token's codes do not depend on its company.
    """

    kind: Literal["batchtopk"] = "batchtopk"
    """Architecture."""


class MatryoshkaConfig(BatchSettings):
    """Matryoshka BatchTopK (Bussmann et al. 2025, arXiv 2503.17547): nested dictionaries, each of which must do alone."""

    kind: Literal["matryoshka"] = "matryoshka"
    """Architecture."""
    prefix_shares: tuple[float, ...] = (1 / 32, 3 / 32, 7 / 32, 15 / 32, 1.0)
    """Sizes of the nested dictionaries as shares of n_latents, rising to 1. The default is dictionary_learning's."""

    @model_validator(mode="after")
    def _prefixes_rise(self) -> Self:
        widths = self.widths()
        if not widths or widths[0] < 1 or widths[-1] != self.n_latents or sorted(set(widths)) != list(widths):
            raise ValueError(
                f"prefix_shares={self.prefix_shares} of {self.n_latents} latents come to widths {widths}; "
                "they must rise from at least 1 latent to all of them, each different: give shares up to 1"
            )
        return self

    def widths(self) -> tuple[int, ...]:
        """Latents in each nested dictionary."""
        return tuple(round(share * self.n_latents) for share in self.prefix_shares)


class PenaltySettings(EncoderSettings):
    """What architectures share that are made sparse by a penalty rather than by counting."""

    sparsity_field: ClassVar[str] = "penalty"

    penalty: float
    """Weight of the sparsity penalty, in units of activations scaled to norm sqrt(d)."""
    target_l0: float | None = Field(default=None, gt=0)
    """Active latents a token to steer to: the weight, from `penalty` on, then follows each batch; None keeps it fixed."""
    penalty_rate: float = Field(default=0.02, gt=0)
    """How fast the weight follows `target_l0`: change of its logarithm a step, times log(L0 / target) (cut to -1..1)."""
    penalty_warmup_tokens: int = Field(default=50_000, ge=0)
    """Training tokens over which the weight rises from 0: 5 % of a run of default length, as in Bricken et al. 2024."""

    def label(self) -> str:
        aim = f"l0-{self.target_l0:g}" if self.target_l0 else f"penalty{self.penalty:g}"
        return f"{self.kind}{self.n_latents}-{aim}"


class StandardConfig(PenaltySettings):
    """ReLU dictionary with an L1 penalty (Bricken et al. 2023, "Towards Monosemanticity"; scaling of their April 2024 update)."""

    kind: Literal["standard"] = "standard"
    """Architecture."""
    penalty: float = Field(default=1.0, ge=0)
    """Weight of the sum of codes. The default is SAELens'; the April 2024 update trains long runs at 5."""


class JumpReLUConfig(PenaltySettings):
    """JumpReLU dictionary: a learnt threshold a latent (Rajamanoharan et al. 2024b, arXiv 2407.14435).

    `step` counts active latents and gives thresholds alone a straight-through gradient, as in that paper; `tanh` is
    Anthropic's variant (Conerly et al., January 2025 update): a tanh of the codes, straight-through gradients to all
    parameters, and a pull on latents that do not fire.
    """

    kind: Literal["jumprelu"] = "jumprelu"
    """Architecture."""
    variant: Literal["step", "tanh"] = "step"
    """Which penalty and which straight-through gradients: step (Rajamanoharan et al.) or tanh (Conerly et al.)."""
    penalty: float = Field(default=1.0, ge=0)
    """Weight of the count of active latents, or of their tanh. The default is SAELens'."""
    bandwidth: float = Field(default=0.05, gt=0)
    """Width of the kernel that estimates gradients at the threshold. SAELens' default; Conerly et al. use 2."""
    initial_threshold: float | None = Field(default=None, ge=0)
    """Threshold that latents start from; None lets through `target_l0` a token, or is 0.01 (SAELens') where none is given."""
    tanh_scale: float = Field(default=4.0, gt=0)
    """c in tanh(c |code|); tanh variant only."""
    pre_act_coefficient: float = Field(default=3e-6, ge=0)
    """Weight of the pull on latents below their threshold; tanh variant only."""


class GatedConfig(PenaltySettings):
    """Gated dictionary (Rajamanoharan et al. 2024a, arXiv 2404.16014): which latents fire, and how much, by two tied encoders."""

    kind: Literal["gated"] = "gated"
    """Architecture."""
    penalty: float = Field(default=1.0, ge=0)
    """Weight of the sum of rectified gates. The default is SAELens'."""


class MPConfig(DictionarySettings):
    """Matching pursuit dictionary, MP-SAE (Costa et al. 2025, arXiv 2506.03093): explains the residual atom by atom."""

    sparsity_field: ClassVar[str] = "k"

    kind: Literal["mp"] = "mp"
    """Architecture."""
    k: int = Field(default=32, ge=1)
    """Pursuit steps a token; an atom may come again, so L0 may be less. More steps may be taken once trained."""
    tolerance: float = Field(default=0.0, ge=0)
    """A token stops once its residual's norm is this share of the root-mean-square norm of activations; 0 takes all steps."""
    stop_on_repeat: bool = False
    """At inference, a token stops at the first atom that it takes again: SAELens' `stop_on_duplicate_support`, for its files."""
    revive_coefficient: float = Field(default=1 / 32, ge=0)
    """Weight of the term by which dead atoms learn to explain what the live ones leave. 0 switches it off."""


def _kind(value: Any) -> str:
    """TopK where nothing is said, so that `--set dictionary.k=64` is enough."""
    return value.get("kind", "topk") if isinstance(value, dict) else getattr(value, "kind", "topk")


DictionaryConfig = Annotated[
    Annotated[TopKConfig, Tag("topk")]
    | Annotated[BatchTopKConfig, Tag("batchtopk")]
    | Annotated[MatryoshkaConfig, Tag("matryoshka")]
    | Annotated[StandardConfig, Tag("standard")]
    | Annotated[JumpReLUConfig, Tag("jumprelu")]
    | Annotated[GatedConfig, Tag("gated")]
    | Annotated[MPConfig, Tag("mp")],
    Discriminator(_kind),
]
"""Any architecture, told apart by `kind`."""

ARCHITECTURES: dict[str, type[DictionarySettings]] = {
    cls.model_fields["kind"].default: cls
    for cls in (TopKConfig, BatchTopKConfig, MatryoshkaConfig, StandardConfig, JumpReLUConfig, GatedConfig, MPConfig)
}
"""The config class of each kind, in the order in which they are shown."""


def settings_of(kind: str) -> type[DictionarySettings]:
    """The config class of an architecture. Raises ConfigError for a kind there is none of."""
    classes: dict[str, type[DictionarySettings]] = {
        get_args(option.model_fields["kind"].annotation)[0]: option
        for option in (get_args(tagged)[0] for tagged in get_args(get_args(DictionaryConfig)[0]))
    }
    if kind not in classes:
        raise ConfigError(f"dictionary.kind={kind!r} is none of {', '.join(classes)}")
    return classes[kind]
