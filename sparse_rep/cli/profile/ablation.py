"""`sparse-rep profile ablation`: what a mixture loses without each of its experts."""

from __future__ import annotations

from typing import Annotated

import typer

from sparse_rep.cli import options


def register(profile: typer.Typer) -> None:
    profile.command("ablation", help=ablation.__doc__)(ablation)


def ablation(
    model: Annotated[
        str | None, typer.Option("--model", help="A mixture of experts: hub id, directory, or pkg:toy-moe.")
    ] = None,
    experts: Annotated[
        str | None, typer.Option("--experts", help="all (the default), or LAYER:EXPERT and LAYER, comma-separated.")
    ] = None,
    dictionaries: Annotated[
        str | None,
        typer.Option("--dictionaries", help="Comma-separated dictionaries of which it is asked which latents move."),
    ] = None,
    text: Annotated[str | None, typer.Option("--text", help=options.TEXT)] = None,
    text_tokens: Annotated[int | None, typer.Option("--text-tokens", help="Read at most this much text.")] = None,
    context: Annotated[int | None, typer.Option("--context", help="Tokens the model sees at once.")] = None,
    name: Annotated[str | None, typer.Option("--name", help="Name of the run.")] = None,
    device: options.Device = None,
    store: options.Store = options.DEFAULT_STORE,
    config: options.ConfigFile = None,
    set_: options.Overrides = None,
    as_json: options.AsJson = False,
) -> None:
    """Read text with a mixture of experts, once as it is and once without each expert, and keep how the loss changes.

    Changes are kept by domain with their intervals over documents, and with --dictionaries so are the latents that fire more
    or less. The text is read once for each expert: `--text-tokens` bounds the work.

    Example: `sparse-rep profile ablation --model pkg:toy-moe --text stdlib,pip-readmes --text-tokens 10000 --experts 1`
    """
    from sparse_rep.config import AblationConfig
    from sparse_rep.jobs.ablation import ablate_experts
    from sparse_rep.progress import Reporter

    settings = AblationConfig.read(
        config,
        set_ or (),
        name=name,
        model__name=model,
        model__device=device,
        experts=experts,
        dictionaries=options.words(dictionaries),
        text__sources=options.words(text),
        text__n_tokens=text_tokens,
        text__context=context,
        store=store,
    )
    reporter = Reporter(as_json)
    summary = ablate_experts(settings, reporter)
    reporter.say(f"[bold]{summary['run_id']}[/bold]")
    for row in summary["largest_changes"]:
        reporter.say(f"without expert {row['expert']} of layer {row['layer']}: loss {row['change']:+.4f} nats a token")
    reporter.result(**summary)
