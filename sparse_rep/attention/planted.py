"""Heads whose attention is known beforehand: what a method made for them must find, and one in which there is nothing to find."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from sparse_rep.attention.layer import LayerAttention

QK = tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]]


def _waves(n: int, frequencies: Float[Tensor, " f"]) -> Float[Tensor, "n d"]:
    """[cos iw, sin iw]: products of two rows depend on their distance alone."""
    angle = torch.arange(n, dtype=torch.float64)[:, None] * frequencies.double()
    return torch.cat([angle.cos(), angle.sin()], 1).float()


def relative(n: int, d: int, draw: torch.Generator) -> QK:
    """By distance, with side lobes: d / 2 frequencies spread over [0.02, pi]. Nothing is drawn."""
    k = _waves(n, torch.linspace(0.02, math.pi, d // 2))
    return 2 * k, k


def local(n: int, d: int, draw: torch.Generator, width: float = 8.0) -> QK:
    """The nearest keys: a bell over distance, `width` its standard deviation in the logits."""
    share = (torch.arange(d // 2) + 0.5) / (d // 2)
    k = _waves(n, torch.special.ndtri(0.5 + share / 2) / width)
    return 4 * k, k


def grid(n: int, d: int, draw: torch.Generator, stride: int = 32) -> QK:
    """Every so many keys before the query, the query's own among them. Nothing is drawn."""
    k = _waves(n, 2 * math.pi * (torch.arange(d // 2) % (stride // 2) + 1) / stride)
    return 2 * k, k


def sink(n: int, d: int, draw: torch.Generator) -> QK:
    """The first key, and little else."""
    u = _direction(d, draw)
    k = 0.3 * torch.randn(n, d, generator=draw)
    k[0] = 24 * u
    return 3 * u + 0.3 * torch.randn(n, d, generator=draw), k


def needle(n: int, d: int, draw: torch.Generator, needles: int = 5) -> QK:
    """A few keys far apart, for all later queries."""
    u = _direction(d, draw)
    k = 0.3 * torch.randn(n, d, generator=draw)
    at = needle_positions(n, needles)
    k[at] = 24 * u + torch.randn(needles, d, generator=draw)
    return 4 * u + 0.3 * torch.randn(n, d, generator=draw), k


def needle_positions(n: int, needles: int = 5) -> Tensor:
    """Where `needle` hides its keys: spread over the first half."""
    return (torch.arange(needles) * n // (2 * needles)) + n // 40


def diffuse(n: int, d: int, draw: torch.Generator) -> QK:
    """Nothing to find: attention is all but even over the keys before the query."""
    return 0.3 * torch.randn(n, d, generator=draw), 0.3 * torch.randn(n, d, generator=draw)


KINDS: Mapping[str, Callable[[int, int, torch.Generator], QK]] = {
    "relative": relative,
    "local": local,
    "grid": grid,
    "sink": sink,
    "needle": needle,
    "diffuse": diffuse,
}


def planted_layer(kinds: Sequence[str] = tuple(KINDS), n: int = 1024, d: int = 64, seed: int = 0) -> LayerAttention:
    """One head of each kind named, each with its own keys; values are standard normal."""
    draw = torch.Generator().manual_seed(seed)
    pairs = [KINDS[kind](n, d, draw) for kind in kinds]
    q, k = (torch.stack(side) for side in zip(*pairs, strict=True))
    return LayerAttention(q, k, torch.randn(len(kinds), n, d, generator=draw))


def _direction(d: int, draw: torch.Generator) -> Float[Tensor, " d"]:
    u = torch.randn(d, generator=draw)
    return u / u.norm()
