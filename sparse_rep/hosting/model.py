"""A model we can look inside: activations by TransformerLens name, and edits at the same places."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class ModelOrigin:
    """Where a model came from; goes into every run that used it."""

    name: str
    """What the user typed after --model: a hub id, a directory, a *.gguf file or pip:NAME."""
    revision: str
    """Commit of a hub model; a digest of the weight files of a local one."""
    note: str = ""
    """What a reader must know, e.g. "4-bit GGUF, dequantised"."""


class HostedModel:
    """A causal language model with named hooks. Made by `load_model`."""

    model: Any
    tokenizer: Any
    origin: ModelOrigin
    device: str

    def hooks(self) -> list[str]:
        """Every hook name this model offers, in the order of the forward pass."""
        raise NotImplementedError

    def width(self, hook: str) -> int:
        """d of the activation at a hook. Raises ConfigError with the nearest names for a hook the model lacks."""
        raise NotImplementedError

    def capture(self, input_ids: Tensor, attention_mask: Tensor | None, hooks: Sequence[str]) -> dict[str, Tensor]:
        """Activations (b, t, d) at each hook. The forward stops once the deepest has been seen."""
        raise NotImplementedError

    def edit(self, hook: str, change: Callable[[Tensor], Tensor]) -> AbstractContextManager[None]:
        """Replace the activation at a hook by `change(activation)` while the context is open."""
        raise NotImplementedError

    def loss(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Next-token cross entropy (b, t-1) in nats; 0 where the target is padding."""
        raise NotImplementedError

    def unembed(self) -> tuple[Tensor, Tensor | None]:
        """`W_U (vocab, d)` and the final norm's weight (d) or None: what a direction writes to the logits, directly."""
        raise NotImplementedError
