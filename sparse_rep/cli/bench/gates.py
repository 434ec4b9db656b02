"""`sparse-rep bench gates`: Hash, Top-k, DSelect-k, COMET and COMET+ on equal terms."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from sparse_rep.cli import options


def register(bench: typer.Typer) -> None:
    bench.command("gates", help=gates.__doc__)(gates)


def gates(
    tasks: Annotated[
        str | None, typer.Option("--tasks", help="Comma-separated: digits, regimes-by-distance, regimes-by-tree.")
    ] = None,
    names: Annotated[
        str | None, typer.Option("--gates", help="Comma-separated: hash, topk, dselect-k, comet, comet+.")
    ] = None,
    trials: Annotated[int, typer.Option("--trials", min=2, help="Random settings tried for each gate.")] = 24,
    epochs: Annotated[int, typer.Option("--epochs", min=1, help="Passes over the training rows.")] = 40,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Rows a step.")] = 128,
    seed: Annotated[int, typer.Option("--seed", help="Of data, settings, weights and batches.")] = 0,
    as_json: options.AsJson = False,
) -> None:
    """Train a layer of eight affine experts behind each gate, with the same number of random settings for each.

    Settings drawn a trial: the learning rate for all; the weight of the balance loss for Top-k; the width of the smooth step
    and the weight of the entropy for DSelect-k and COMET. A trial is scored at its best epoch on validation rows, on test rows
    and with the two heaviest experts of each, so that no gate profits from being soft: accuracy, or explained variance.
    Medians come with 95 % bootstrap intervals over the trials; `--json` prints a row a gate and a task, and the difference
    between COMET and Top-k.
    """
    from sparse_rep.progress import Reporter
    from sparse_rep.routing.comparison.contenders import CONTENDERS, draw_trials
    from sparse_rep.routing.comparison.ensemble import train_together
    from sparse_rep.routing.comparison.summary import contrast, summary
    from sparse_rep.routing.comparison.tasks import TASKS

    reporter = Reporter(as_json)
    chosen = _chosen(names, CONTENDERS, "gate")
    for name in _chosen(tasks, TASKS, "task"):
        task, outcomes = TASKS[name](seed), {}
        for gate in chosen:
            started = time.monotonic()
            drawn = draw_trials(CONTENDERS[gate], task, trials, seed)
            outcomes[gate] = train_together(drawn, task, epochs, batch, seed)
            row = summary(task, gate, outcomes[gate], time.monotonic() - started)
            reporter.say(_line(row))
            reporter.result(**row)
        if {"comet", "topk"} <= outcomes.keys():
            row = contrast(task, outcomes, "comet", "topk")
            low, high = row["interval"]
            reporter.say(f"{name:<20} comet - topk  {row['difference_of_medians']:+.4f}  [{low:+.4f}, {high:+.4f}]")
            reporter.result(**row)


def _chosen(words: str | None, offered: dict[str, Any], what: str) -> tuple[str, ...]:
    """Those named, or all. Raises ConfigError for one that is not offered."""
    from sparse_rep.errors import ConfigError

    names = options.words(words) or tuple(offered)
    for name in names:
        if name not in offered:
            raise ConfigError(f"there is no {what} {name!r}: choose from {', '.join(offered)}")
    return names


def _line(row: dict[str, Any]) -> str:
    low, high = row["median_interval"]
    regimes = f"  regimes {row['regime_information']:.2f}" if "regime_information" in row else ""
    return (
        f"{row['task']:<20} {row['gate']:<10} median {row['median']:.4f} \\[{low:.4f}, {high:.4f}]  chosen "
        f"{row['chosen']:.4f}  experts {row['experts_used']:.2f}{regimes}  {row['seconds']:.0f} s"
    )
