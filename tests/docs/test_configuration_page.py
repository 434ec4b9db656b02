"""docs/configuration.md says what the code does, because it is made from it."""

import importlib.util
from pathlib import Path

import yaml

from sparse_rep.config import TrainConfig

DOCS = Path(__file__).resolve().parents[2] / "docs"
spec = importlib.util.spec_from_file_location("build_configuration", DOCS / "build_configuration.py")
assert spec is not None
assert spec.loader is not None
builder = importlib.util.module_from_spec(spec)
spec.loader.exec_module(builder)


def test_the_page_is_current() -> None:
    assert (DOCS / "configuration.md").read_text() == builder.page(), "run `make docs`"


def test_every_setting_explains_itself() -> None:
    silent = [f"{c.__name__}.{n}" for c in builder.TITLES for n, f in c.model_fields.items() if not f.description]
    assert silent == []


def test_the_example_file_works(tmp_path: Path) -> None:
    example = builder.INTRODUCTION.split("```yaml\n")[1].split("```")[0]
    (tmp_path / "run.yaml").write_text(example)
    config = TrainConfig.read(tmp_path / "run.yaml")
    assert config.lr == yaml.safe_load(example)["lr"]
