"""`sparse-rep bench fidelity`: what is published of matching-pursuit dictionaries and their peers, measured again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sparse_rep import __version__
from sparse_rep.cli import options
from sparse_rep.cli.bench._results import show_medians
from sparse_rep.errors import ConfigError

if TYPE_CHECKING:
    from sparse_rep.config_base import Config
    from sparse_rep.evaluation.fidelity.ledger import Ledger
    from sparse_rep.progress import Reporter

EXPERIMENTS = ("hierarchy", "ksweep", "recovery")


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
    steps: Annotated[
        int | None, typer.Option(min=1, help="Optimiser steps, if not each experiment's own number.")
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Train dictionaries on data whose true features are known, and say which of them come back.

    `hierarchy`: parents and children that fire with them (arXiv 2506.03093, B.1). Absorption is 0 where every child is learnt
    apart from its parent. With --json one object a method and seed: method, seed, correlation, absorption, nmse, l0, flat_mse,
    hierarchical_mse, recovery.

    `ksweep`: TopK and MP-SAE trained at k=8 on features without a hierarchy, asked for 1 to 32 codes; how their atoms lie.

    `recovery`: every architecture on SynthSAEBench at an eighth of its width (arXiv 2602.14687), by sae-lens' own metrics.

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
    if "ksweep" in wanted:
        _ksweep(seeds, steps, reporter)
    if "recovery" in wanted:
        _recovery(seeds, steps, reporter)


def _hierarchy(correlation: float, seeds: int, steps: int | None, reporter: Reporter) -> None:
    from sparse_rep.evaluation.fidelity.hierarchy_experiment import HierarchySettings, run_hierarchy

    settings = HierarchySettings.checked(_given(correlation=correlation, n_seeds=seeds, n_steps=steps))
    with _ledger("hierarchy", settings) as ledger:
        rows = run_hierarchy(settings, ledger, reporter)
    for row in rows:
        reporter.result(experiment="hierarchy", **row)
    columns = ("absorption", "flat_mse", "hierarchical_mse", "recovery", "nmse", "l0")
    show_medians(f"hierarchy, sibling cosine {correlation:g}: medians of {seeds} seeds", rows, columns, reporter)


def _ksweep(seeds: int, steps: int | None, reporter: Reporter) -> None:
    from sparse_rep.evaluation.fidelity.ksweep import BABEL_SIZES, KSweepSettings, run_ksweep

    settings = KSweepSettings.checked(_given(n_seeds=seeds, n_steps=steps))
    with _ledger("ksweep", settings) as ledger:
        rows = run_ksweep(settings, ledger, reporter)
    lie = ("recovery", *(f"babel_{n}" for n in BABEL_SIZES), "coactive_babel", "near_duplicates", "effective_rank")
    trained = [row for row in rows if row["method"] != "truth"]
    for row in rows:
        reporter.result(experiment="ksweep", **row)
    show_medians(
        f"NMSE by k at inference, trained at {settings.k}: medians of {seeds} worlds",
        trained,
        [f"nmse_{k}" for k in settings.ks],
        reporter,
    )
    show_medians("stability: mean cosine of the atoms of two initialisations", trained, ["stability"], reporter)
    show_medians("how the atoms lie, beside the true features", rows, lie, reporter)


def _recovery(seeds: int, steps: int | None, reporter: Reporter) -> None:
    from sparse_rep.evaluation.fidelity.recovery import RecoverySettings, run_recovery

    batch = RecoverySettings().batch_tokens
    settings = RecoverySettings.checked(_given(n_seeds=seeds, n_tokens=None if steps is None else steps * batch))
    with _ledger("recovery", settings) as ledger:
        rows = run_recovery(settings, ledger, reporter)
    for row in rows:
        reporter.result(experiment="recovery", **row)
    columns = ("mcc", "f1", "precision", "recall", "uniqueness", "explained_variance", "l0")
    show_medians(f"recovery, true L0 {rows[0]['true_l0']:.1f}: medians of {seeds} worlds", rows, columns, reporter)


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
