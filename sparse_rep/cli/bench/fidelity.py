"""`sparse-rep bench fidelity`: what is published of matching-pursuit dictionaries and their peers, measured again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sparse_rep import __version__
from sparse_rep.cli import options
from sparse_rep.cli.bench._results import show
from sparse_rep.errors import ConfigError

if TYPE_CHECKING:
    from sparse_rep.config_base import Config
    from sparse_rep.evaluation.fidelity.ledger import Ledger
    from sparse_rep.progress import Reporter

EXPERIMENTS = ("hierarchy",)


def register(bench: typer.Typer) -> None:
    bench.command("fidelity", help=fidelity.__doc__)(fidelity)


def fidelity(
    only: Annotated[
        str | None, typer.Option(help=f"Comma-separated, of: {', '.join(EXPERIMENTS)}. All of them if not given.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of each method; medians want 10 or more.")] = 10,
    correlation: Annotated[
        str, typer.Option(help="hierarchy: comma-separated cosines of sibling features, 0 to below 1.")
    ] = "0,0.1",
    steps: Annotated[int | None, typer.Option(min=1, help="Optimiser steps, if not the published number.")] = None,
    as_json: options.AsJson = False,
) -> None:
    """Train dictionaries on data whose true features are known, and say which of them come back.

    `hierarchy`: parents and children that fire with them (arXiv 2506.03093, B.1). Absorption is 0 where every child is learnt
    apart from its parent. With --json one object a method and seed: method, seed, correlation, absorption, nmse, l0, flat_mse,
    hierarchical_mse, recovery.

    Everything runs on the CPU. Stopped, the same command goes on; its state lies under the cache (`sparse-rep doctor` names it).

    Example: `sparse-rep bench fidelity --only hierarchy --seeds 3 --correlation 0`
    """
    from sparse_rep.progress import Reporter

    wanted = options.words(only) or EXPERIMENTS
    unknown = [name for name in wanted if name not in EXPERIMENTS]
    if unknown:
        raise ConfigError(f"there is no experiment {unknown[0]!r}; there are {', '.join(EXPERIMENTS)}")
    reporter = Reporter(as_json)
    if "hierarchy" in wanted:
        for cosine in _numbers("--correlation", correlation):
            _hierarchy(cosine, seeds, steps, reporter)


def _hierarchy(correlation: float, seeds: int, steps: int | None, reporter: Reporter) -> None:
    from sparse_rep.evaluation.fidelity.hierarchy_experiment import HierarchySettings, run_hierarchy

    settings = HierarchySettings.checked(_given(correlation=correlation, n_seeds=seeds, n_steps=steps))
    with _ledger("hierarchy", settings) as ledger:
        rows = run_hierarchy(settings, ledger, reporter)
        columns = ("absorption", "flat_mse", "hierarchical_mse", "recovery", "nmse", "l0")
        show(
            f"hierarchy, sibling cosine {correlation:g}: medians of {seeds} seeds", rows, ("method",), columns, reporter
        )


@contextmanager
def _ledger(experiment: str, settings: Config) -> Iterator[Ledger]:
    """Kept if what happens inside does not come to its end, removed if it does."""
    from sparse_rep.evaluation.fidelity.ledger import Ledger
    from sparse_rep.hosting.gguf import cache_root

    ledger = Ledger(cache_root() / "bench" / f"{experiment}-{__version__}-{settings.digest()[:8]}")
    yield ledger
    ledger.close()


def _given(**settings: Any) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value is not None}


def _numbers(option: str, text: str) -> list[float]:
    try:
        return [float(word) for word in options.words(text) or ()]
    except ValueError:
        raise ConfigError(f"{option} wants comma-separated numbers, got {text!r}") from None
