"""A bank: coders that take their optimiser steps together on the same batches.

The loop knows nothing else. Which bank a coder joins is decided by `grouping.assemble`; every bank leaves in its coders what
training each alone would have.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sparse_rep.activations import ActivationBatch
from sparse_rep.saes.coder import SparseCoder


@dataclass(frozen=True)
class Schedule:
    """Linear rise over the first share of the steps, flat, linear fall to 0 over the last."""

    n_steps: int
    warmup_share: float
    decay_share: float

    def factor(self, step: int) -> float:
        """Of the peak learning rate, at a step counted from 0."""
        warmup, decay = self.warmup_share * self.n_steps, self.decay_share * self.n_steps
        rise = (step + 1) / warmup if warmup > 0 else 1.0
        fall = (self.n_steps - step) / decay if decay > 0 else 1.0
        return min(1.0, rise, fall)

    def table(self) -> Float[Tensor, " n_steps"]:
        """`factor` of every step."""
        return torch.tensor([self.factor(step) for step in range(self.n_steps)])


@dataclass(frozen=True)
class Member:
    """A coder and what the loop must know to train it."""

    coder: SparseCoder
    lr: float
    """Its peak learning rate."""


class Bank(ABC):
    """Members that step together."""

    def __init__(self, members: Mapping[str, Member], schedule: Schedule, dtype: torch.dtype) -> None:
        """Coders are on their device and initialised. `dtype` is that of products; weights and moments stay fp32."""
        self.members, self.schedule, self.dtype = members, schedule, dtype

    @abstractmethod
    def advance(self, batch: ActivationBatch, step: int) -> None:
        """One optimiser step of every member; `step` counts from 0. Does not wait for the device."""

    @abstractmethod
    def losses(self) -> dict[str, dict[str, Tensor]]:
        """Named scalars of the last step, by member."""

    def finish(self) -> None:
        """Called once, after the last step: leaves in the coders what was trained, where it is not there already."""
        return

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Everything the next steps depend on: weights, moments, counters."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None: ...

    @classmethod
    @abstractmethod
    def bytes_needed(cls, members: Mapping[str, Member], batch_tokens: int) -> int:
        """An estimate, before anything is allocated, of what training takes at most."""
