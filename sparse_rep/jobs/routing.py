"""The routing profile: which experts a mixture used for every token of a corpus, kept in the store."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, final

import numpy as np
import torch

from sparse_rep.config import RoutingConfig
from sparse_rep.corpora.tokenised import Corpus
from sparse_rep.hosting.model import HostedModel
from sparse_rep.jobs.capture import Capture, Found, Seen
from sparse_rep.jobs.coordinator import run_captures
from sparse_rep.jobs.naming import model_name, slug
from sparse_rep.jobs.predictions import PredictionCapture
from sparse_rep.jobs.task import Executor
from sparse_rep.progress import Reporter
from sparse_rep.routing.analysis import write_analysis
from sparse_rep.routing.capture import RouterHooks
from sparse_rep.routing.capture_rows import RouteRows
from sparse_rep.routing.families import Router
from sparse_rep.store import RunWriter, Store


def profile_routing(config: RoutingConfig, reporter: Reporter, executor: Executor | None = None) -> dict[str, Any]:
    """Keep the routing of every token of a corpus. Returns the run's id and what was written.

    Shards already committed are not done again, so the same call resumes a run that was stopped or killed.

    Raises:
        ConfigError: a dense model, routers that cannot be read, or routers that a hub kernel leaves out.
    """
    name = slug(f"{model_name(config.model.name)}-routing")
    captures: list[Capture] = [RoutingCapture(config.routers)]
    if config.predictions:
        captures.insert(0, PredictionCapture())  # its table is there when routing is analysed
    summary = run_captures(config, captures, kind="routing", name=name, reporter=reporter, executor=executor)
    manifest = Store(config.store).manifest(summary["run_id"])
    files = [shard.tables["routes"] for shard in manifest.shards]
    return {**summary, "n_rows": sum(f.rows for f in files), "bytes": sum(f.bytes for f in files)}


@final
class RoutingCapture(Capture):
    """Routes of every router of a model; `mapping` says where routers are in a family that is not known.

    When every shard is there, the page tables of routing are computed too, unless `analyse` is off.
    """

    def __init__(self, mapping: str | None = None, *, analyse: bool = True) -> None:
        self._mapping, self._analyse = mapping, analyse

    def fit(self, model: HostedModel, corpus: Corpus) -> dict[str, Any]:
        import transformers

        self._hooks = RouterHooks(model, self._mapping)
        self._rows = RouteRows()
        self._device = model.device
        self.hooks = [f"blocks.{self._hooks.routers[-1].layer}.hook_resid_post"]
        return {"transformers": transformers.__version__}

    @contextmanager
    def attached(self) -> Iterator[None]:
        with self._hooks.attached():
            yield

    def see(self, seen: Seen) -> None:
        real = torch.from_numpy(np.flatnonzero(seen.batch.real.numpy())).to(self._device, non_blocking=True)
        for routing in self._hooks.read(real):
            self._rows.add(routing, seen.batch.tok)

    def take(self) -> Found:
        return Found(tables=self._rows.take())

    def finish(self, run: RunWriter, store: Store) -> None:
        of_routers, of_experts = (_columns(store, run.run_id, table) for table in ("router_sums", "expert_sums"))
        routers, experts = totals(self._hooks.routers, of_routers, of_experts)
        run.write_table("routers", routers)
        run.write_table("experts", experts)
        if self._analyse:
            write_analysis(run, store)


def _columns(store: Store, run_id: str, table: str) -> dict[str, np.ndarray]:
    """A table of a run, in an order that depends on nothing but its rows, so that sums of them do not either."""
    rows = store.query(f"SELECT * FROM {table} WHERE run_id = $run ORDER BY ALL", run=run_id)
    return {name: rows[name].to_numpy() for name in rows.column_names}


def totals(
    routers: list[Router], router_sums: dict[str, np.ndarray], expert_sums: dict[str, np.ndarray], source: str = "hooks"
) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
    """Columns of `routers` and `experts` from the sums of all shards. Shared experts are numbered after the routed ones."""
    by_router: dict[str, list[Any]] = {}
    by_expert: dict[str, list[Any]] = {}

    def add(columns: dict[str, list[Any]], **row: Any) -> None:
        for name, value in row.items():
            columns.setdefault(name, []).append(None if isinstance(value, float) and np.isnan(value) else value)

    for router in routers:
        at = router_sums["layer"] == router.layer
        n = int(router_sums["n_tokens"][at].sum())
        add(
            by_router,
            layer=router.layer,
            module=router.name,
            n_experts=router.n_experts,
            n_shared=router.n_shared,
            k=router.k,
            score=router.score,
            renormalised=router.renormalised,
            scale=router.scale,
            source=source,
            n_tokens=n,
            entropy=float(router_sums["entropy"][at].sum() / n),
            z_loss=float(router_sums["z"][at].sum() / n),
        )
        mine = expert_sums["layer"] == router.layer
        number = expert_sums["expert"][mine]
        chosen, weight, prob = (
            np.bincount(number, expert_sums[name][mine].astype(float), router.n_experts)
            for name in ("n_tokens", "weight", "prob")
        )
        for expert in range(router.n_experts + router.n_shared):
            shared = expert >= router.n_experts
            tokens = n if shared else int(chosen[expert])
            add(
                by_expert,
                layer=router.layer,
                expert=expert,
                shared=shared,
                n_tokens=tokens,
                load=tokens / (n * router.k),
                importance=np.nan if shared else float(weight[expert] / weight.sum()),
                mean_prob=np.nan if shared else float(prob[expert] / n),
            )
    return by_router, by_expert
