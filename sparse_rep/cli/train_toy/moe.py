"""`sparse-rep train-toy moe`: the small mixture of experts behind `--model pkg:toy-moe`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sparse_rep.cli import options


def register(toys: typer.Typer) -> None:
    toys.command("moe", help=moe.__doc__)(moe)


def moe(
    out: Annotated[
        Path, typer.Option("--out", help="Directory of the result: text/ and model/ are made in it.")
    ] = Path("toy-moe"),
    only_text: Annotated[
        bool,
        typer.Option("--only-text", help="Read and tokenise the text, and stop: OUT can go to a machine with a GPU."),
    ] = False,
    device: options.Device = "auto",
    config: options.ConfigFile = None,
    set_: options.Overrides = None,
    as_json: options.AsJson = False,
) -> None:
    """Train a small OLMoE on text that every machine has: `--model OUT/model` then hosts it.

    The text is read once into OUT/text: the standard library, READMEs and C headers of installed packages, and the reference
    behind `help()`. Takes minutes on a GPU and hours on a CPU. What ships as `pkg:toy-moe` came from this command with its
    defaults; recipe.json beside the weights says on which text and with what result. Another machine's text differs as its
    packages do.

    A rehearsal: `sparse-rep train-toy moe --out /tmp/toy --set n_steps=20 --set text.n_tokens=200000`
    """
    from sparse_rep.hosting.load import resolve_device
    from sparse_rep.progress import Reporter
    from sparse_rep.toys.config import ToyMoeConfig
    from sparse_rep.toys.text import toy_text
    from sparse_rep.toys.training import train_mixture

    settings = ToyMoeConfig.read(config, set_ or ())
    reporter = Reporter(as_json)
    text = toy_text(out / "text", settings, reporter)
    if only_text:
        reporter.result(text=str(out / "text"), **text.corpus.meta)
        return
    recipe = train_mixture(settings, text, out / "model", resolve_device(device or "auto"), reporter)
    heldout, unigram = recipe["heldout_nats"]["all"], recipe["unigram_nats"]["all"]
    reporter.say(
        f"{out / 'model'}: {heldout:.3f} nats a token on held-out documents, {recipe['below_unigram']:.0%} below a unigram "
        f"model's {unigram:.3f}; {recipe['tokens']:,} tokens in {recipe['seconds']:,.0f} s"
    )
    reporter.result(model=str(out / "model"), **recipe)
