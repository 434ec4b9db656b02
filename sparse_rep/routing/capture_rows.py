"""Routing on its way from the device to the store: compact, without waiting, in the order of the corpus."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparse_rep.codes import EMPTY
from sparse_rep.routing.capture import Routing
from sparse_rep.routing.families import Router

Width = tuple[Router, ...]
"""Routers that are worked on together."""


@dataclass(frozen=True)
class Sums:
    """What is added up over tokens, on the device, in float64. Shapes: l routers, E experts."""

    tokens: Float[Tensor, " l"]
    dropped: Float[Tensor, " l"]
    """Tokens that got fewer than k experts."""
    entropy: Float[Tensor, " l"]
    """Of the router's distribution over experts, in bits."""
    z: Float[Tensor, " l"]
    """logsumexp(logits)^2, the z-loss without its coefficient (Zoph et al. 2022, arXiv 2202.08906, eq. 5)."""
    chosen: Float[Tensor, "l E"]
    weight: Float[Tensor, "l E"]
    """NaN where weights are not known."""
    probability: Float[Tensor, "l E"]

    @classmethod
    def of(cls, routing: Routing) -> Sums:
        n_experts = routing.routers[0].n_experts
        n = routing.logits.shape[1]
        chosen = routing.indices.masked_fill(routing.indices == EMPTY, n_experts)
        spread = routing.logits.new_zeros(*routing.logits.shape[:-1], n_experts + 1)

        def by_expert(values: Tensor) -> Tensor:
            return spread.scatter(-1, chosen, values)[..., :n_experts].sum(1, dtype=torch.float64)

        ones = torch.ones_like(chosen, dtype=spread.dtype)
        p = routing.probabilities()
        nan = torch.full_like(spread[:, 0, :n_experts], torch.nan, dtype=torch.float64)
        return cls(
            tokens=torch.full((len(routing.routers),), float(n), dtype=torch.float64, device=spread.device),
            dropped=(routing.indices == EMPTY).any(-1).sum(1, dtype=torch.float64),
            entropy=-torch.special.xlogy(p, p).sum(-1).sum(1, dtype=torch.float64) / np.log(2),
            z=routing.logits.logsumexp(-1).square().sum(1, dtype=torch.float64),
            chosen=by_expert(ones),
            weight=nan if routing.weights is None else by_expert(routing.weights.to(spread.dtype)),
            probability=p.sum(1, dtype=torch.float64),
        )

    def __add__(self, other: Sums) -> Sums:
        return Sums(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))


@final
class RouteRows:
    """Gathers the routing of a shard's batches; `take` gives the columns of `routes`, `router_sums` and `expert_sums`.

    Weights and margins are rounded to bfloat16, as activations are; ids travel as one byte where E < 256, two elsewhere.
    Copies to pinned memory are only started: the device is not waited for until `take`.
    """

    def __init__(self) -> None:
        self._forget()

    def add(self, routing: Routing, tok: Int[Tensor, " n"]) -> None:
        """Routing of corpus tokens `tok`, which may come in any order and, over all calls, once each."""
        width = routing.routers
        narrow = width[0].n_experts < 256
        self._tok[width].append(tok.numpy())
        self._experts[width].append(_to_host(routing.indices.to(torch.uint8 if narrow else torch.int16)))
        self._margins[width].append(_to_host(_bits(routing.margin)))
        if routing.weights is not None:
            self._weights[width].append(_to_host(_bits(routing.weights)))
        sums = Sums.of(routing)
        self._sums[width] = self._sums[width] + sums if width in self._sums else sums

    def take(self) -> dict[str, dict[str, Any]]:
        """Columns by table, sorted by (layer, tok, rank) and by layer; what was gathered is forgotten."""
        for device in {sums.tokens.device for sums in self._sums.values()}:
            if device.type == "cuda":
                torch.cuda.current_stream(device).synchronize()
        pieces = [piece for width in self._tok for piece in self._routes(width)]
        pieces.sort(key=lambda piece: piece["layer"][0] if len(piece["layer"]) else 0)
        names = ("layer", "tok", "rank", "expert", "weight", "margin")
        routes = {name: pa.chunked_array([pa.array(p[name]) for p in pieces]) for name in names} if pieces else {}
        tables = {"routes": routes, **self._summed()}
        self._forget()
        return tables

    def _forget(self) -> None:
        self._tok: dict[Width, list[np.ndarray]] = defaultdict(list)
        self._experts: dict[Width, list[Tensor]] = defaultdict(list)
        self._weights: dict[Width, list[Tensor]] = defaultdict(list)
        self._margins: dict[Width, list[Tensor]] = defaultdict(list)
        self._sums: dict[Width, Sums] = {}

    def _routes(self, width: Width) -> list[dict[str, Any]]:
        tok = np.concatenate(self._tok[width])
        order = np.argsort(tok, kind="stable")
        tok, k = tok[order].astype(np.uint32), width[0].k
        unsigned = np.uint8 if width[0].n_experts < 256 else np.uint16
        none = np.iinfo(unsigned).max
        experts = _sorted(self._experts[width], order).view(unsigned)
        margins = _floats(_sorted(self._margins[width], order))
        weights = _floats(_sorted(self._weights[width], order)) if self._weights[width] else None
        every = {"tok": np.repeat(tok, k), "rank": np.tile(np.arange(1, k + 1, dtype=np.uint8), len(tok))}
        pieces = []
        for at, router in enumerate(width):
            expert, margin = experts[at].reshape(-1), np.repeat(margins[at], k)
            weight = None if weights is None else weights[at].reshape(-1)
            kept = expert != none
            whole = bool(kept.all())
            columns = {**every, "expert": expert.astype(np.uint16), "margin": margin}
            columns["weight"] = np.full(len(expert), np.nan, np.float32) if weight is None else weight
            columns = columns if whole else {name: values[kept] for name, values in columns.items()}
            # NaN is how numpy says NULL: no weight is known, or no other expert was there to be compared with.
            for name in ("weight", "margin"):
                columns[name] = pa.array(columns[name], from_pandas=True)
            pieces.append({"layer": np.full(len(columns["tok"]), router.layer, np.uint16), **columns})
        return pieces

    def _summed(self) -> dict[str, dict[str, Any]]:
        routers: dict[str, list[Any]] = defaultdict(list)
        experts: dict[str, list[Any]] = defaultdict(list)
        for width, sums in self._sums.items():
            host = {name: value.cpu().numpy() for name, value in vars(sums).items()}
            for at, router in enumerate(width):
                routers["layer"].append(router.layer)
                for column, name in (("n_tokens", "tokens"), ("n_dropped", "dropped")):
                    routers[column].append(int(host[name][at]))
                routers["entropy"].append(float(host["entropy"][at]))
                routers["z"].append(float(host["z"][at]))
                experts["layer"] += [router.layer] * router.n_experts
                experts["expert"] += range(router.n_experts)
                experts["n_tokens"] += host["chosen"][at].astype(int).tolist()
                experts["weight"] += [None if np.isnan(v) else v for v in host["weight"][at].tolist()]
                experts["prob"] += host["probability"][at].tolist()
        return {"router_sums": dict(routers), "expert_sums": dict(experts)}


def _bits(x: Tensor) -> Tensor:
    """bfloat16 as its 16 bits, which numpy has no name for."""
    return x.to(torch.bfloat16).view(torch.int16)


def _floats(bits: np.ndarray) -> np.ndarray:
    return (bits.view(np.uint16).astype(np.uint32) << 16).view(np.float32)


def _to_host(x: Tensor) -> Tensor:
    if x.device.type != "cuda":
        return x
    out = torch.empty(x.shape, dtype=x.dtype, pin_memory=True)
    return out.copy_(x, non_blocking=True)


def _sorted(parts: list[Tensor], order: np.ndarray) -> np.ndarray:
    """Parts (l, n_i, ...) joined along n and put in order."""
    return np.concatenate([part.numpy() for part in parts], axis=1)[:, order]
