"""What a sparse-attention method is: a small estimator from one layer's queries, keys and values to a mask."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple

from jaxtyping import Float
from torch import Tensor

from sparse_rep.attention.layer import Context, LayerAttention
from sparse_rep.attention.masks import Mask
from sparse_rep.config_base import Config


class Applies(NamedTuple):
    """Whether a method makes sense for a layer, as the store keeps it."""

    phase: Literal["prefill", "decode", "n/a"]
    """decode: the mask speaks of queries after the prompt that it was chosen from (`Estimate.first_row`)."""
    reason: str = ""
    """Why not, for n/a."""

    @property
    def holds(self) -> bool:
        return self.phase != "n/a"


@dataclass(frozen=True)
class Estimate:
    """What a method decided for every head of a layer."""

    mask: Mask
    output: Float[Tensor, "h n dv"] | None = None
    """The method's own output where it is no softmax over the mask (a sampled part, say): output error is taken of this."""
    first_row: int = 0
    """Queries before this one are no part of the method's claim and are not scored (decode: the prompt)."""
    pairs_read: float = 0.0
    """Logits a head computed to decide, as a share of the visible pairs: what the estimate itself costs."""
    notes: Mapping[str, Any] = field(default_factory=dict)
    """Anything worth keeping beside the scores, JSON-like: strides chosen, blocks never covered, ..."""


@dataclass(frozen=True)
class Method(ABC):
    """One way to choose which pairs a head keeps.

    A method is made from its config, whose defaults are the paper's settings, and holds nothing else. Subclasses are final and
    frozen dataclasses that give `config` its default.
    """

    name: ClassVar[str]
    """As the command line and the store spell it, e.g. vertical_slash."""
    config: Config

    @abstractmethod
    def applies(self, context: Context) -> Applies: ...

    @abstractmethod
    def estimate(self, attention: LayerAttention, budget: float | None) -> Estimate:
        """Choose pairs.

        Args:
            attention: one layer on one text, to which the method applies.
            budget: share of the visible pairs that a head may keep, in (0, 1]; 1 keeps all. A method rounds to what it can
                realise, and density is measured on the result. None: the config's own settings, whatever they come to.
        """
