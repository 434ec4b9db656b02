"""`sparse-rep import`: a dictionary made elsewhere, into the store."""

from __future__ import annotations

from typing import Annotated

import typer

from sparse_rep.cli import options


def register(app: typer.Typer) -> None:
    app.command("import", help=import_.__doc__)(import_)


def import_(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="A directory, or saelens:RELEASE/ID of SAELens' public releases.")
    ],
    name: Annotated[
        str | None, typer.Option("--name", help="Its id in the store; derived from SOURCE if left out.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="The model it reads, where its files do not say or name it otherwise.")
    ] = None,
    hook: Annotated[
        str | None,
        typer.Option("--hook", help="The hook it reads, by TransformerLens name, where its files do not say."),
    ] = None,
    store: options.Store = options.DEFAULT_STORE,
    as_json: options.AsJson = False,
) -> None:
    """Bring a dictionary that others trained into the store, to extract with and to compare.

    Directories of SAELens (cfg.json + sae_weights.safetensors), sparsify (cfg.json + sae.safetensors) and
    dictionary_learning (config.json + ae.pt) are told apart by their files. Only tensors are read, never pickled code.
    Public releases are found and downloaded by sae-lens.

    Examples: `sparse-rep import ./layers.9 --model HuggingFaceTB/SmolLM2-135M`

    `sparse-rep import saelens:gpt2-small-res-jb/blocks.8.hook_resid_pre --model gpt2`
    """
    from sparse_rep.jobs.importing import import_dictionary
    from sparse_rep.progress import Reporter
    from sparse_rep.store import Store

    reporter = Reporter(as_json)
    found = import_dictionary(Store(store, create=True), source, reporter, name=name, model=model, hook=hook)
    about = f"{found['kind']}, {found['n_latents']:,} latents at {found['hook']} of {found['model']}"
    reporter.say(f"[bold]{found['dictionary_id']}[/bold]: {about}")
    reporter.say(
        f"Next: sparse-rep extract --store {store} --model {found['model']} --dictionaries {found['dictionary_id']}"
    )
    reporter.result(**found)
