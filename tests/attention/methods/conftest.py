"""Scores by the definitions, on whole matrices: small layers only, and none of the product's own scoring."""

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from sparse_rep.attention.layer import LayerAttention
from sparse_rep.attention.masks import kept_rows
from sparse_rep.attention.method import Estimate


class Head(NamedTuple):
    density: float
    recall: float
    oracle: float
    """Most recall with the same number of keys in every row."""
    chance: float
    """Recall of as many keys in every row if all had the same attention."""
    error: float
    bound: float
    """Largest ||o' - o|| / (2 (1 - recall) max ||v||) of a row."""


def kept_table(estimate: Estimate, layer: LayerAttention) -> Tensor:
    """Pairs kept, (h, n, n), asked for a few rows at a time."""
    return torch.stack(
        [
            torch.cat(
                [kept_rows(estimate.mask, layer, head, lo, min(lo + 50, layer.n)) for lo in range(0, layer.n, 50)]
            )
            for head in range(layer.n_heads)
        ]
    )


def by_definition(estimate: Estimate, layer: LayerAttention) -> list[Head]:
    heads = []
    visible = layer.visible(0, layer.n)[estimate.first_row :]
    for head, table in enumerate(kept_table(estimate, layer)):
        kept = table[estimate.first_row :]
        p = layer.probabilities(head, estimate.first_row, layer.n).double()
        p = p / p.sum(-1, keepdim=True)
        v = layer.v[layer.kv_of(head)].double()
        mass = (p * kept).sum(-1)
        best = p.sort(-1, descending=True).values.cumsum(-1).gather(1, kept.sum(-1, keepdim=True) - 1)[:, 0]
        out, exact = (p * kept / mass[:, None]) @ v, p @ v
        claimed = out if estimate.output is None else estimate.output[head, estimate.first_row :].double()
        moved = (out - exact).norm(dim=-1)
        heads.append(
            Head(
                density=(kept.sum() / visible.sum()).item(),
                recall=mass.mean().item(),
                oracle=best.mean().item(),
                chance=(kept.sum(-1) / visible.sum(-1)).mean().item(),
                error=((claimed - exact).norm() / exact.norm()).item(),
                bound=(moved / (2 * (1 - mass) * v.norm(dim=-1).max() + 1e-9)).max().item(),
            )
        )
    return heads


@pytest.fixture
def scores() -> Callable[[Estimate, LayerAttention], list[Head]]:
    return by_definition


@pytest.fixture
def table() -> Callable[[Estimate, LayerAttention], Tensor]:
    return kept_table


def random_layer(n: int = 201, heads: int = 4, kv_heads: int = 2, d: int = 16, seed: int = 0, **rule) -> LayerAttention:
    """Random attention of moderate sharpness. Nothing divides n."""
    draw = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(m, n, d, generator=draw) for m in (heads, kv_heads, kv_heads))
    return LayerAttention(2 * q, k, v, **rule)


@pytest.fixture
def layer_of() -> Callable[..., LayerAttention]:
    return random_layer
