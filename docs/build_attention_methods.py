"""Writes docs/attention-methods.md from the methods' own docstrings. Run by `make docs`; a test keeps the page current."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path

from pydantic_core import PydanticUndefined

from sparse_rep.attention.method import Method
from sparse_rep.attention.methods.registry import config_class, method_classes
from sparse_rep.config_base import Config

PAGE = Path(__file__).with_name("attention-methods.md")
INTRODUCTION = """# Sparse-attention methods

Each is a small estimator: from one layer's queries, keys and values to the pairs that each head keeps. `sparse-rep profile heads
--methods NAME,NAME --budgets 0.05,0.1,0.2` scores them on a model; settings are changed by `--set settings.NAME.SETTING=VALUE`,
and `--budgets paper` takes the defaults below, which are the papers' (where one is ours, it says so).

Three rules hold for all:

- A mask says what a *method* keeps. The layer's own mask (causal, sliding window) holds beside it, and a query always keeps its
  own key, so that no row is empty.
- A **budget** is a share of the pairs that the layer's own mask shows a head, in (0, 1]. It replaces the settings that say how
  much is kept, in their proportions; a method rounds to what its blocks can realise, and the density reported is the mask's own.
  Blocks are halved, to no less than 16, until a budget holds three of them in every row: papers choose them for long texts.
  At 1 every method keeps everything. Methods that share a budget over a layer's heads (`ada_snapkv`, `moa`) meet it on average.
- **Decode** methods prune what later queries may read. A profiled text is not cut into prompt and answer, so its last positions
  (`answer`) stand for the answer, and only their queries are scored.

Whether a method applies is answered for every layer, with the reason where it does not: `sparsed` wants the denoising steps of a
diffusion model, `mminference` labels of modalities, `moa` spans that `sparse-rep profile spans` calibrates by the loss.
Definitions of the scores are in the docstring of `sparse_rep/attention/score.py` and in `store/sql/schema.sql`.

A new method is a new file in `sparse_rep/attention/methods/`: a config and a final `Method`. It is found by being there.

This page is made from those files' docstrings by `make docs`.
"""


def page() -> str:
    families: dict[str, list[type[Method]]] = {}
    for method in method_classes().values():
        families.setdefault(method.__module__, []).append(method)
    return INTRODUCTION + "".join(family(module, methods) for module, methods in sorted(families.items()))


def family(module: str, methods: list[type[Method]]) -> str:
    about = inspect.cleandoc(importlib.import_module(module).__doc__ or "")
    return f"\n## {about}\n" + "".join(map(section, methods))


def section(method: type[Method]) -> str:
    config = config_class(method)
    head = f"\n### `{method.name}`\n\n{inspect.cleandoc(method.__doc__ or '')}\n\n{inspect.cleandoc(config.__doc__ or '')}\n"
    rows = "".join(
        f"| `{name}` | {shown(field.get_default(call_default_factory=True))} | {' '.join((field.description or '').split())} |\n"
        for name, field in config.model_fields.items()
    )
    return f"{head}\n| setting | default | meaning |\n|---|---|---|\n{rows}"


def shown(value: object) -> str:
    if value is PydanticUndefined:
        return "required"
    if isinstance(value, tuple):
        return ", ".join(shown(v) for v in value) or "none"
    label = getattr(value, "label", None)
    return f"`{label()}`" if isinstance(value, Config) and callable(label) else f"`{value}`"


if __name__ == "__main__":
    PAGE.write_text(page())
