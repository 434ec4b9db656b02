"""A view of a model in which chosen heads attend by a sparse method."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from sparse_rep.attention.capture import attention_seen
from sparse_rep.attention.dense import Dense, dense, rule_of
from sparse_rep.attention.layer import LayerAttention
from sparse_rep.attention.masks import kept_rows
from sparse_rep.attention.memory import queries_at_once
from sparse_rep.attention.method import Estimate, Method
from sparse_rep.attention.score import masked_arguments, renormalised_by_sink
from sparse_rep.errors import ConfigError
from sparse_rep.hosting.model import HostedModel
from sparse_rep.hosting.views import Transform
from sparse_rep.kernels.attention import masked_attention


@final
class SparseAttention(Transform):
    """Heads that attend by a method, at a budget; the rest of the model is as it was, but sees what they wrote.

    Args:
        method: chooses the pairs anew in every forward pass.
        budget: share of the visible pairs; None takes the method's own settings.
        heads: by layer; None means every head of every layer.

    Applying it raises ConfigError (from the forward pass) where a chosen layer's attention is one the method cannot take.
    """

    def __init__(self, method: Method, budget: float | None, heads: Mapping[int, Sequence[int]] | None = None) -> None:
        self.method, self.budget, self.heads = method, budget, heads

    @contextmanager
    def apply(self, model: HostedModel) -> Iterator[None]:
        with attention_seen(model, self._attend):
            yield

    def describe(self) -> dict[str, Any]:
        heads = None if self.heads is None else {str(layer): list(found) for layer, found in self.heads.items()}
        return {
            "transform": "sparse-attention",
            "method": self.method.name,
            "config": self.method.config.model_dump(mode="json"),
            "budget": self.budget,
            "heads": heads,
        }

    def _attend(self, layer: LayerAttention, row: int) -> Float[Tensor, "h n dv"] | None:
        chosen = range(layer.n_heads) if self.heads is None else self.heads.get(layer.layer, ())
        if not len(chosen):
            return None
        applies = self.method.applies(layer.context)
        if not applies.holds:
            raise ConfigError(f"{self.method.name} cannot run on layer {layer.layer}: {applies.reason}")
        truth = dense(layer)
        sparse = sparse_output(truth, self.method.estimate(layer, self.budget))
        out = truth.out.clone()
        out[list(chosen)] = sparse[list(chosen)]
        return out


def sparse_output(truth: Dense, estimate: Estimate) -> Float[Tensor, "h n dv"]:
    """What a layer's heads give under an estimate. Queries before its `first_row` keep their dense output."""
    layer, mask = truth.layer, estimate.mask
    if estimate.output is not None:
        out = estimate.output.to(truth.out.dtype)
    elif (found := masked_arguments(mask, layer)) is not None:
        keep, lines, block = found
        out, lse = masked_attention(layer.q, layer.k, layer.v, rule_of(layer), keep, block=block, lines=lines)
        out = renormalised_by_sink(out, lse, layer.sinks)
    else:
        out = torch.stack([_by_rows(layer, estimate, head) for head in range(layer.n_heads)]).to(truth.out.dtype)
    if not estimate.first_row:
        return out
    return torch.cat([truth.out[:, : estimate.first_row], out[:, estimate.first_row :]], 1)


def _by_rows(layer: LayerAttention, estimate: Estimate, head: int) -> Float[Tensor, "n dv"]:
    step, parts = queries_at_once(layer.n), []
    sinks = None if layer.sinks is None else layer.sinks[head : head + 1]
    for lo in range(0, layer.n, step):
        hi = min(lo + step, layer.n)
        s = layer.logits(head, lo, hi).masked_fill_(~kept_rows(estimate.mask, layer, head, lo, hi), float("-inf"))
        out = s.softmax(-1) @ layer.v[layer.kv_of(head)].to(s)
        parts.append(renormalised_by_sink(out[None], s.logsumexp(-1)[None], sinks)[0])
    return torch.cat(parts)
