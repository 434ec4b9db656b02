"""From a share of the pairs to a whole-numbered setting: the largest one that stays within."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparse_rep.attention.layer import Context
from sparse_rep.errors import ConfigError


def checked_budget(budget: float | None) -> float | None:
    """Raises ConfigError for a budget outside (0, 1]."""
    if budget is not None and not 0 < budget <= 1:
        raise ConfigError(f"a budget is a share of the visible pairs in (0, 1], got {budget:g}")
    return budget


def largest(measure: Callable[[int], float], limit: float, low: int, high: int) -> int:
    """Largest whole number in low..high whose measure, non-decreasing, is at most `limit`; `low` where none is."""
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if measure(middle) <= limit else (low, middle - 1)
    return low


def largest_each(
    measure: Callable[[Int[Tensor, " h"]], Float[Tensor, " h"]], limit: float, low: int, high: int, like: Tensor
) -> Int[Tensor, " h"]:
    """`largest` for every head at once; `like` is any tensor of h rows on the device wanted."""
    lows = torch.full((len(like),), low, device=like.device)
    highs = torch.full_like(lows, high)
    for _ in range((high - low).bit_length()):
        middle = (lows + highs + 1) // 2
        within = measure(middle) <= limit
        lows, highs = torch.where(within, middle, lows), torch.where(within, highs, (middle - 1).clamp(min=low))
        highs = torch.maximum(lows, highs)
    return lows


def keys_within(context: Context, budget: float) -> int:
    """Most keys a query may keep, the same for every query (those that see fewer keep all), within a share of the pairs."""
    return largest(lambda k: nearest_pairs(context, k), budget * context.visible_pairs, 1, context.n)


def nearest_pairs(context: Context, k: int) -> int:
    """Pairs of a head whose every query keeps k of the keys it sees, or all where it sees fewer."""
    if not context.causal:
        return context.n * min(k, context.n)
    span = min(k, context.window or context.n, context.n)
    return span * (span + 1) // 2 + (context.n - span) * span


def keys_seen(context: Context, first: int = 0) -> Int[Tensor, " r"]:
    """Keys that the layer's own mask shows each query from `first` on. Causal layers."""
    return torch.arange(first + 1, context.n + 1).clamp(max=context.window or context.n)
