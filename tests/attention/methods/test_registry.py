import importlib.util
import inspect
from pathlib import Path

import pytest

from sparse_rep.attention.methods.registry import build_method, config_class, method_class, method_classes
from sparse_rep.errors import ConfigError

PROMISED = {
    "a_shape",
    "ada_snapkv",
    "anchor",
    "block_sparse",
    "dhsa",
    "flexprefill",
    "flexprefill_lines",
    "hyper",
    "local_window",
    "minference",
    "mminference",
    "moa",
    "oracle_blocks",
    "oracle_tokens",
    "proxyattn",
    "quest",
    "random_blocks",
    "s2",
    "snapkv",
    "sparsed",
    "vertical_slash",
}


def test_every_promised_method_is_found_by_its_file() -> None:
    assert set(method_classes()) == PROMISED


def test_every_setting_of_every_method_says_what_it_is() -> None:
    for name, method in method_classes().items():
        assert inspect.getdoc(method), name
        config = config_class(method)
        assert inspect.getdoc(config), name
        silent = [field for field, info in config.model_fields.items() if not info.description]
        assert not silent, f"{name}: {silent}"


def test_settings_given_replace_the_papers_and_the_rest_stay() -> None:
    method = build_method("vertical_slash", {"verticals": 7})
    assert method.config.verticals == 7  # pyright: ignore[reportAttributeAccessIssue]
    assert method.config.slashes == config_class(method_class("vertical_slash"))().slashes  # pyright: ignore


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("vertical_slush", {}, "there is no method 'vertical_slush'; choose among a_shape"),
        ("quest", {"pages": 3}, "pages: there is no such setting"),
        ("a_shape", {"sink": 0}, "sink: "),
        ("proxyattn", {"block": 64, "stride": 48}, "stride=48 must divide block=64"),
    ],
)
def test_a_wrong_name_or_setting_is_one_clear_sentence(name: str, settings: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        build_method(name, settings)


def test_the_page_of_methods_is_what_their_docstrings_say() -> None:
    docs = Path(__file__).resolve().parents[3] / "docs"
    spec = importlib.util.spec_from_file_location("build_attention_methods", docs / "build_attention_methods.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (docs / "attention-methods.md").read_text() == module.page(), "run `make docs`"
