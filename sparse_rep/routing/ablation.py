"""A model without some of its experts, and what that costs: a `Transform`, and losses document by document."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from sparse_rep.errors import ConfigError
from sparse_rep.hosting.model import HostedModel
from sparse_rep.hosting.views import Transform
from sparse_rep.routing.capture import RouterHooks
from sparse_rep.routing.capture_layout import Layout, tensors


@final
class ExpertAblation(Transform):
    """The weights of some experts set to 0: tokens that chose them get nothing from them, and everything else as before.

    With `renormalise` the weights that are left are scaled to their former sum. What the router chooses downstream changes
    with the residual stream; within the layer no other expert steps in. (In Llama 4 the weight multiplies the expert's
    input, so the expert gives what it makes of 0, which is 0.)

    Raises:
        ConfigError: on `apply`, for a layer without a router or an expert that the router does not choose from.
    """

    def __init__(
        self, experts: Sequence[tuple[int, int]], *, renormalise: bool = False, mapping: str | None = None
    ) -> None:
        self.experts, self.renormalise, self._mapping = tuple(experts), renormalise, mapping

    @contextmanager
    def apply(self, model: HostedModel) -> Iterator[None]:
        hooks = RouterHooks(model, self._mapping)
        by_layer = {router.layer: router for router in hooks.routers}
        with ExitStack() as stack:
            for layer in sorted({layer for layer, _ in self.experts}):
                router = by_layer.get(layer)
                gone = [expert for at, expert in self.experts if at == layer]
                if router is None or max(gone) >= router.n_experts:
                    experts = ", ".join(str(expert) for expert in gone)
                    has = f"chooses from {router.n_experts} experts" if router else "has no router"
                    raise ConfigError(f"cannot ablate expert {experts} of layer {layer}: it {has}")
                change = _without(gone, hooks.layout(router), router.n_experts, self.renormalise)
                handle = router.module(model.model).register_forward_hook(change)
                stack.callback(handle.remove)
            yield

    def describe(self) -> dict[str, Any]:
        return {"transform": "expert_ablation", "experts": list(self.experts), "renormalise": self.renormalise}


def _without(gone: Sequence[int], layout: Layout, n_experts: int, renormalise: bool) -> Any:
    """A forward hook that gives a router's output with the weights of `gone` set to 0."""
    if layout.weights is None:
        raise ConfigError("this router returns no weights, so an expert cannot be taken out by them")

    def change(_module: Any, _inputs: Any, output: Any) -> Any:
        weights = tensors(output)[layout.weights or 0]
        removed = torch.zeros(n_experts, dtype=torch.bool, device=weights.device)
        removed[list(gone)] = True
        if layout.indices is None:
            hit = removed.expand_as(weights)
        else:
            hit = removed[tensors(output)[layout.indices].clamp(0, n_experts - 1)]
        left = weights.masked_fill(hit, 0)
        if renormalise:
            left = left * (weights.sum(-1, keepdim=True) / left.sum(-1, keepdim=True).clamp(min=1e-20))
        return type(output)(left if part is weights else part for part in output)

    return change


@dataclass(frozen=True)
class Losses:
    """Next-token loss of each of some documents: sums in nats and the tokens they are over."""

    total: np.ndarray  # float64 (documents)
    n: np.ndarray  # int64 (documents)

    @property
    def mean(self) -> float:
        return float(self.total.sum() / self.n.sum())


@dataclass(frozen=True)
class Change:
    """How the mean loss a token changes, with its 95 % interval over documents."""

    n_tokens: int
    loss: float
    loss_after: float
    change: float
    lo: float
    hi: float


def compare(before: Losses, after: Losses, chosen: np.ndarray | None = None) -> Change:
    """Change of the loss over all documents or those `chosen` (a mask).

    The change is a ratio of sums over documents, so its interval is that of a ratio estimator: +-1.96 standard errors, by
    linearisation (Cochran, Sampling Techniques, 3rd ed., section 6.4). NaN bounds for one document.
    """
    at = slice(None) if chosen is None else chosen
    n, difference = before.n[at].astype(float), after.total[at] - before.total[at]
    change = difference.sum() / n.sum()
    documents = len(n)
    half = np.nan
    if documents > 1:
        residual = difference - change * n
        half = 1.96 * np.sqrt((residual**2).sum() * documents / (documents - 1)) / n.sum()
    total = n.sum()
    loss, after_loss = before.total[at].sum() / total, after.total[at].sum() / total
    return Change(int(total), float(loss), float(after_loss), float(change), float(change - half), float(change + half))


def document_losses(losses: Tensor, tok: Tensor, starts: Tensor, n_documents: int) -> tuple[Tensor, Tensor]:
    """Sums and counts by document of the losses (n) of tokens `tok`; `starts` are the documents' first tokens, ascending."""
    document = torch.searchsorted(starts, tok, right=True) - 1
    total = torch.zeros(n_documents, dtype=torch.float64).index_add(0, document, losses.double())
    return total, torch.bincount(document, minlength=n_documents)
