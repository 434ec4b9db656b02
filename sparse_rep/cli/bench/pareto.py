"""`sparse-rep bench pareto`: every architecture at several sparsities, on a real model's activations."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from sparse_rep.cli import options
from sparse_rep.errors import ConfigError


def register(bench: typer.Typer) -> None:
    bench.command("pareto", help=pareto.__doc__)(pareto)


def pareto(
    levels: Annotated[str, typer.Option("--l0", help="Comma-separated: active latents a token.")] = "8,16,32,64",
    model: Annotated[str | None, typer.Option("--model", help="As for `sparse-rep train`.")] = None,
    hook: Annotated[str | None, typer.Option("--hook", help="Hook point by TransformerLens name.")] = None,
    text: Annotated[str | None, typer.Option("--text", help="As for `sparse-rep train`.")] = None,
    text_tokens: Annotated[int, typer.Option("--text-tokens", min=1, help="Read at most this much text.")] = 60_000,
    n_tokens: Annotated[int, typer.Option("--tokens", min=1, help="Training tokens of each dictionary.")] = 300_000,
    n_latents: Annotated[int, typer.Option("--latents", min=1, help="Size of each dictionary.")] = 1152,
    lr: Annotated[float | None, typer.Option("--lr", help="Peak learning rate of all.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Seed of weights and shuffling.")] = None,
    device: options.Device = None,
    store: options.Store = options.DEFAULT_STORE,
    config: options.ConfigFile = None,
    set_: options.Overrides = None,
    as_json: options.AsJson = False,
) -> None:
    """Train every architecture at several sparsities on the same tokens: explained variance and loss recovered against L0.

    Dictionaries and their metrics go into the store, where the app shows them; with --json one object a dictionary. Stopped,
    the same command goes on. `docs/build_pareto.py` draws the figure of docs/benchmarks.md from the JSON.

    Example: `sparse-rep bench pareto --store bench-store --tokens 2000000 --text-tokens 400000 --latents 4608`
    """
    from sparse_rep.cli.bench._results import show_rows
    from sparse_rep.config import TrainConfig
    from sparse_rep.jobs.pareto import run_pareto
    from sparse_rep.progress import Reporter

    try:
        wanted = [int(word) for word in options.words(levels) or ()]
    except ValueError:
        raise ConfigError(f"--l0 wants comma-separated whole numbers, got {levels!r}") from None
    base = TrainConfig.read(
        config,
        set_ or (),
        model__name=model,
        model__device=device,
        hook=hook,
        text__sources=options.words(text),
        text__n_tokens=text_tokens,
        dictionary__n_latents=n_latents,
        n_tokens=n_tokens,
        lr=lr,
        seed=seed,
        store=store,
    )
    reporter = Reporter(as_json)
    rows: list[dict[str, Any]] = run_pareto(base, wanted, reporter)
    for row in rows:
        reporter.result(experiment="pareto", **row)
    columns = ("method", "aimed_l0", "l0", "explained_variance", "ce_recovered", "dead_share")
    show_rows(f"{base.hook} of {base.model.name}, {n_tokens:,} tokens each", rows, columns, reporter)
