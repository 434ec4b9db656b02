"""What every coder promises. The base promises no encoder matrix and no pre-activations: matching pursuit has neither.

Classes are abstract or final. To change a coder a little, wrap it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Self

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from sparse_rep.activations import ActivationBatch
from sparse_rep.codes import SparseCodes


class SparseCoder(nn.Module, ABC):
    """Turns activations into sparse codes and codes into a reconstruction of a target."""

    d_in: int
    d_out: int
    n_latents: int

    @abstractmethod
    def encode(self, batch: ActivationBatch | Tensor) -> SparseCodes:
        """Codes of n tokens. Plain (n, d_in) tensors are wrapped."""

    @abstractmethod
    def reconstruct(self, batch: ActivationBatch | Tensor, codes: SparseCodes) -> Float[Tensor, "n d_out"]:
        """What the codes say the target is."""

    @abstractmethod
    def loss(self, batch: ActivationBatch) -> dict[str, Tensor]:
        """Named scalars with gradient; `"loss"` is the one to minimise. The others are reported."""

    @torch.no_grad()
    def before_step(self) -> None:
        """Called between backward and the optimiser step: projections of the gradient."""
        return

    @torch.no_grad()
    def after_step(self) -> None:
        """Called after each optimiser step: constraints such as unit-norm atoms."""
        return

    @torch.no_grad()
    def initialise(self, sample: ActivationBatch | Tensor, generator: torch.Generator) -> None:
        """Data-dependent start (b_dec at the geometric median, say), once, before the first step."""
        return

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Kind and hyper-parameters: enough, with the weights, to build the coder again."""


class Dictionary(SparseCoder, ABC):
    """A coder whose reconstruction is a weighted sum of atoms plus a constant (and, with a skip, a map of the input)."""

    @property
    @abstractmethod
    def atoms(self) -> Float[Tensor, "m d_out"]:
        """One direction a latent."""

    @property
    @abstractmethod
    def dead(self) -> Bool[Tensor, " m"]:
        """Latents that count as dead by the training tokens since they last fired."""

    @abstractmethod
    def decode(self, codes: SparseCodes) -> Float[Tensor, "n d_out"]:
        """The part of the reconstruction that depends on the codes alone: all of it, unless there is a skip."""

    @abstractmethod
    def folded(self) -> Self:
        """A copy without a scale of activations that gives the same codes and reconstructions."""
