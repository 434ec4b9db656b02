"""The causal score of a method on some heads: what the model loses when they attend by it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparse_rep.attention.method import Method
from sparse_rep.attention.sparse import SparseAttention
from sparse_rep.errors import ConfigError
from sparse_rep.hosting.model import HostedModel

CHUNK = 2**26
"""Logits compared at once."""


@dataclass(frozen=True)
class Effect:
    """Mean over the predicted tokens, in nats; columns of the table head_effects."""

    layer: int | None
    """None: heads of all layers."""
    head: int | None
    """None: all heads of the layer."""
    method: str
    config: str
    budget: float | None
    loss_dense: float
    loss: float
    kl: float
    """KL(dense || with the method) of the next-token distributions."""


@torch.no_grad()
def effects(
    model: HostedModel,
    texts: Sequence[Int[Tensor, "1 n"]],
    methods: Sequence[Method],
    budgets: Sequence[float | None],
    layers: Sequence[int],
    scope: Literal["model", "layers", "heads"],
) -> list[Effect]:
    """Loss and KL with each method, at each budget, on all heads at once, on each layer's, or on each head alone.

    A method that cannot take the attention of some layer it is asked for is left out.
    """
    found = []
    dense = [model.logits(ids)[0] for ids in texts]
    loss_dense = _mean(_loss(logits, ids) for logits, ids in zip(dense, texts, strict=True))
    for method in methods:
        for budget in budgets:
            for layer, head, heads in _scopes(scope, layers, model.n_heads):
                view = SparseAttention(method, budget, heads)
                try:
                    loss, kl = _with(model, view, texts, dense)
                except ConfigError:
                    continue
                config = method.config.model_dump_json()
                found.append(Effect(layer, head, method.name, config, budget, loss_dense, loss, kl))
    return found


def _scopes(
    scope: str, layers: Sequence[int], n_heads: int
) -> Iterable[tuple[int | None, int | None, Mapping[int, Sequence[int]] | None]]:
    if scope == "model":
        yield None, None, None
    for layer in layers if scope == "layers" else ():
        yield layer, None, {layer: range(n_heads)}
    for layer in layers if scope == "heads" else ():
        for head in range(n_heads):
            yield layer, head, {layer: [head]}


def _with(
    model: HostedModel, view: SparseAttention, texts: Sequence[Tensor], dense: Sequence[Tensor]
) -> tuple[float, float]:
    losses, kls = [], []
    with view.apply(model):
        for ids, clean in zip(texts, dense, strict=True):
            logits = model.logits(ids)[0]
            losses.append(_loss(logits, ids))
            kls.append(_kl(clean, logits))
    return _mean(losses), _mean(kls)


def _loss(logits: Float[Tensor, "n vocab"], ids: Int[Tensor, "1 n"]) -> float:
    target = ids[0, 1:].to(logits.device)
    rows = zip(*(x.split(max(CHUNK // logits.shape[1], 1)) for x in (logits[:-1], target)), strict=True)
    return sum(float(torch.nn.functional.cross_entropy(s.float(), t, reduction="sum")) for s, t in rows) / len(target)


def _kl(clean: Float[Tensor, "n vocab"], other: Float[Tensor, "n vocab"]) -> float:
    total = 0.0
    for a, b in zip(*(x[:-1].split(max(CHUNK // clean.shape[1], 1)) for x in (clean, other)), strict=True):
        log_p, log_q = a.float().log_softmax(-1), b.float().log_softmax(-1)
        total += float((log_p.exp() * (log_p - log_q)).sum())
    return total / (len(clean) - 1)


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found)
