"""What both backends do around a forward pass."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from sparse_rep.errors import ConfigError


def check_padding(attention_mask: Tensor | None) -> None:
    """Raises ConfigError unless padding is on the right, where a causal model needs no mask to ignore it."""
    if attention_mask is not None and bool((attention_mask[:, 1:] > attention_mask[:, :-1]).any()):
        raise ConfigError("padding must be on the right: set the tokenizer's padding_side to 'right'")


def around_norm(change: Callable[[Tensor], Tensor]) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """Two visits that together change the residual stream at the middle of a block.

    Only the norm before the second sublayer can be hooked there, and the stream itself goes round it. So the first visit
    changes what the norm reads, and the second, at the end of the block, adds the difference. Where `change` changes nothing
    it adds an exact 0.
    """
    difference: list[Tensor] = []

    def at_norm(x: Tensor) -> Tensor:
        new = change(x)
        difference[:] = [new - x]
        return new

    def at_end(x: Tensor) -> Tensor:
        return x + difference.pop()

    return at_norm, at_end
