"""Hooks on the routers of a model: which experts were used, with what weight, and by how much they were chosen.

The hooks only keep a reference to what a router returned. After the forward pass all layers are worked on together, so a
capture costs a few launches a pass and not a few a layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparse_rep.codes import EMPTY, SparseCodes
from sparse_rep.errors import ConfigError
from sparse_rep.hosting.model import HostedModel
from sparse_rep.routing.capture_layout import Layout, read_layout
from sparse_rep.routing.families import Router, find_routers

PROBE_TOKENS = 7
"""Shown to a model once, to see what its routers return. Equal to no number of experts, so that shapes cannot be confused."""


@dataclass(frozen=True)
class Routing:
    """What some routers of equal width did with n tokens. Shapes: l routers, n tokens, E experts, k chosen."""

    routers: tuple[Router, ...]
    logits: Float[Tensor, "l n E"]
    """float32."""
    indices: Int[Tensor, "l n k"]
    """Experts used, the router's first choice first; -1 where a token was dropped."""
    weights: Float[Tensor, "l n k"] | None
    """As the model used them; None where the router gives none."""
    margin: Float[Tensor, "l n"]
    """What the router compares experts by (logits, or DeepSeek-V3's sigmoid plus bias), at rank k minus at rank k + 1 of the
    experts allowed; NaN where there are no others."""

    def codes(self, layer: int) -> SparseCodes:
        """One router's choices as sparse codes: experts are units, weights values (1 where there are none)."""
        at = [router.layer for router in self.routers].index(layer)
        indices = self.indices[at]
        values = (indices != EMPTY).float() if self.weights is None else self.weights[at].float()
        return SparseCodes(values, indices, self.routers[at].n_experts)

    def probabilities(self) -> Float[Tensor, "l n E"]:
        """The router's distribution over all experts: softmax of the logits, or sigmoids over their sum."""
        if self.routers[0].score == "sigmoid":
            scores = self.logits.sigmoid()
            return scores / scores.sum(-1, keepdim=True).clamp(min=1e-20)
        return self.logits.softmax(-1)


@final
class RouterHooks:
    """Hooks on every router of a model. `read` gives what they saw in the last forward pass.

    Raises:
        ConfigError: a dense model, a router whose output cannot be read, or routers that never run since a hub kernel computes
            the whole block.
    """

    def __init__(self, model: HostedModel, mapping: str | None = None) -> None:
        if model.backend != "transformers":
            raise ConfigError("routing is read by our own hooks: use --set model.backend=transformers")
        self._model = model
        self.routers = find_routers(model.model, mapping)
        self._outputs: dict[str, Any] = {}
        self._layouts = self._probe()
        biases = [getattr(r.module(model.model), "e_score_correction_bias", None) for r in self.routers]
        self._biases = dict(zip((r.name for r in self.routers), biases, strict=True))

    @contextmanager
    def attached(self) -> Iterator[None]:
        """The hooks are there while the context is open. They change nothing."""
        handles = [
            router.module(self._model.model).register_forward_hook(self._keeper(router.name)) for router in self.routers
        ]
        try:
            yield
        finally:
            self._outputs.clear()
            for handle in handles:
                handle.remove()

    def read(self, rows: Int[Tensor, " n"] | None = None) -> list[Routing]:
        """What every router did in the last forward pass, one `Routing` for each width.

        `rows` are the positions wanted, in the flattened (b, t) of the batch; None takes all.
        """
        groups: dict[tuple[Any, ...], list[Router]] = {}
        for router in self.routers:
            groups.setdefault((router.n_experts, router.k, router.score, router.groups), []).append(router)
        found = [self._routing(tuple(group), rows) for group in groups.values()]
        self._outputs.clear()
        return found

    def layout(self, router: Router) -> Layout:
        """Where a router's logits, weights and ids stand in what it returns."""
        return self._layouts[router.name]

    def _keeper(self, name: str) -> Any:
        def keep(_module: Any, _inputs: Any, output: Any) -> None:
            self._outputs[name] = output

        return keep

    @torch.no_grad()
    def _probe(self) -> dict[str, Layout]:
        ids = torch.arange(PROBE_TOKENS)[None] % self._model.vocab_size
        with self.attached():
            self._model.capture(ids, None, ())
            silent = [router.name for router in self.routers if router.name not in self._outputs]
            if silent:
                raise ConfigError(
                    f"{silent[0]} never ran ({len(silent)} of {len(self.routers)} routers): a kernel from the hub computes its "
                    "whole block; load the model without hub kernels (use_kernels=False, or USE_HUB_KERNELS=0 in the environment)"
                )
            return {router.name: read_layout(router, self._outputs[router.name]) for router in self.routers}

    def _routing(self, routers: tuple[Router, ...], rows: Tensor | None) -> Routing:
        parts = [self._layouts[r.name].read(self._outputs[r.name], r.k) for r in routers]
        logits, indices = (torch.stack([p[i] for p in parts]) for i in (0, 2))  # pyright: ignore
        weights = None if any(p[1] is None for p in parts) else torch.stack([p[1] for p in parts])  # pyright: ignore
        if rows is not None:
            logits, indices = logits.index_select(1, rows), indices.index_select(1, rows)
            weights = None if weights is None else weights.index_select(1, rows)
        logits = logits.float()
        return ranked(routers, logits, indices, weights, self._compared(routers, logits))

    def _compared(self, routers: Sequence[Router], logits: Tensor) -> Tensor:
        """What experts are compared by, -inf for those of groups that are not allowed."""
        biases = [self._biases[r.name] for r in routers]
        known = [bias for bias in biases if bias is not None]
        biased = len(known) == len(biases)
        compared = logits.sigmoid() + torch.stack(known)[:, None] if biased else logits
        if routers[0].groups is None:
            return compared
        n_groups, allowed = routers[0].groups
        grouped = compared.unflatten(-1, (n_groups, -1))
        # DeepSeek-V3 ranks groups by the sum of their two best, DeepSeek-V2 by the best.
        standing = grouped.topk(2, -1).values.sum(-1) if biased else grouped.amax(-1)
        inside = torch.zeros_like(standing, dtype=torch.bool).scatter_(-1, standing.topk(allowed, -1).indices, True)
        return grouped.masked_fill(~inside[..., None], -torch.inf).flatten(-2)


def ranked(
    routers: tuple[Router, ...], logits: Tensor, indices: Tensor, weights: Tensor | None, compared: Tensor
) -> Routing:
    """Put each token's experts in the router's order of preference, and measure how far the last was from the next.

    Some routers return them unsorted (DeepSeek's), and the weight is not what they are ranked by where a bias steers the load.
    """
    at = indices.clamp(min=0)
    standing = compared.gather(-1, at).masked_fill(indices == EMPTY, -torch.inf)
    order = standing.argsort(dim=-1, descending=True, stable=True)
    indices = indices.gather(-1, order)
    weights = None if weights is None else weights.gather(-1, order)
    # A dropped slot masks an expert that was not used; its token has no margin anyway.
    others = compared.scatter(-1, at, -torch.inf).amax(-1)
    margin = (standing.amin(-1) - others).clamp(min=0)
    margin = margin.masked_fill((others == -torch.inf) | (indices == EMPTY).any(-1), torch.nan)
    return Routing(routers, logits, indices, weights, margin)


@torch.no_grad()
def routing_activations(
    model: HostedModel,
    input_ids: Int[Tensor, "b t"],
    attention_mask: Int[Tensor, "b t"] | None = None,
    mapping: str | None = None,
) -> dict[str, Tensor]:
    """What every router did, by TransformerLens' names: for each layer L with a router

    - `blocks.L.mlp.hook_router_scores` (b, t, E): logits, float32;
    - `blocks.L.mlp.hook_expert_weights` (b, t, k): as the model used them;
    - `blocks.L.mlp.hook_expert_indices` (b, t, k): first choice first, -1 for none.

    Values at padding are undefined. TransformerLens' bridge scatters the weights over all experts; these are not.
    """
    hooks = RouterHooks(model, mapping)
    with hooks.attached():
        model.capture(input_ids, attention_mask, ())
        found = hooks.read()
    names: dict[str, Tensor] = {}
    for routing in found:
        for at, router in enumerate(routing.routers):
            shown = {
                "router_scores": routing.logits,
                "expert_weights": routing.weights,
                "expert_indices": routing.indices,
            }
            for name, values in shown.items():
                if values is not None:
                    names[f"blocks.{router.layer}.mlp.hook_{name}"] = values[at].unflatten(0, input_ids.shape)
    return names
