"""`sparse-rep profile routing`: which experts a mixture used, token by token."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sparse_rep.cli import options


def register(profile: typer.Typer) -> None:
    profile.command("routing", help=routing.__doc__)(routing)


def routing(
    model: Annotated[
        str | None, typer.Option("--model", help="A mixture of experts: hub id, directory, or pkg:toy-moe.")
    ] = None,
    text: Annotated[
        str | None,
        typer.Option("--text", help=options.TEXT),
    ] = None,
    text_tokens: Annotated[int | None, typer.Option("--text-tokens", help="Read at most this much text.")] = None,
    context: Annotated[int | None, typer.Option("--context", help="Tokens the model sees at once.")] = None,
    routers: Annotated[
        str | None,
        typer.Option(
            "--routers", help="Where the routers of an unknown family are: 'model.layers.*.mlp.gate:top_k=2'."
        ),
    ] = None,
    predictions: Annotated[
        bool | None,
        typer.Option("--predictions", help="Keep the model's own next tokens too (a second pass), for expert pages."),
    ] = None,
    routes: Annotated[
        Path | None,
        typer.Option(
            "--routes", help="Put ids that vLLM or SGLang returned (JSON lines, *.pt) into the store instead."
        ),
    ] = None,
    shard_tokens: Annotated[
        int | None, typer.Option("--shard-tokens", help="Tokens a shard, the unit that is committed whole.")
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="Name of the run.")] = None,
    device: options.Device = None,
    store: options.Store = options.DEFAULT_STORE,
    config: options.ConfigFile = None,
    set_: options.Overrides = None,
    as_json: options.AsJson = False,
) -> None:
    """Read text with a mixture of experts and keep which experts every token was sent to, and with what weight.

    Rows go into the tables `routes`, `routers` and `experts`, shard by shard; stopped or killed, the same command goes on
    where it was. The model computes exactly what it computes without. With --routes nothing is computed: the ids that vLLM or
    SGLang returned for this model (--enable-return-routed-experts) go into the same tables, their weights unknown.

    Example: `sparse-rep profile routing --model pkg:toy-moe --text stdlib,pip-readmes --text-tokens 100000`
    """
    from sparse_rep.config import RoutingConfig
    from sparse_rep.jobs.routing import profile_routing
    from sparse_rep.jobs.routing_import import import_routing
    from sparse_rep.progress import Reporter

    settings = RoutingConfig.read(
        config,
        set_ or (),
        name=name,
        model__name=model,
        model__device=device,
        text__sources=options.words(text),
        text__n_tokens=text_tokens,
        text__context=context,
        routers=routers,
        predictions=predictions,
        routes=routes,
        shard_tokens=shard_tokens,
        store=store,
    )
    reporter = Reporter(as_json)
    summary = import_routing(settings, reporter) if settings.routes else profile_routing(settings, reporter)
    reporter.say(f"[bold]{summary['run_id']}[/bold]: {summary['n_rows']:,} routes of {summary['n_tokens']:,} tokens")
    reporter.say(f"Next: sparse-rep seal --store {store} {summary['run_id']}")
    reporter.result(**summary)
