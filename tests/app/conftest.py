"""One store of hand-written detectors for all tests of the app, and a way to open a page of it without a browser."""

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from streamlit.testing.v1 import AppTest


def _load(name: str) -> ModuleType:
    """A module beside this file; tests are no package, so it is loaded by path."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def main_module() -> Iterator[None]:
    """AppTest leaves its script as `__main__`, which a process started later would try to import."""
    before = sys.modules["__main__"]
    yield
    sys.modules["__main__"] = before


@pytest.fixture(scope="session")
def detectors() -> ModuleType:
    return _load("detector_store")


@pytest.fixture(scope="session")
def store_path(tmp_path_factory: pytest.TempPathFactory, detectors: ModuleType) -> Path:
    path = tmp_path_factory.mktemp("app") / "store"
    detectors.build(path)
    return path


@pytest.fixture(scope="session")
def routing_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same text with three runs of routing over it."""
    path = tmp_path_factory.mktemp("routing") / "store"
    _load("routing_store").build(path)
    return path


def _page(name: str) -> None:
    import importlib

    from sparse_rep.app.shell import draw

    draw(importlib.import_module(f"sparse_rep.app.pages.{name}"))


Open = Callable[..., AppTest]


@pytest.fixture
def open_page(store_path: Path, monkeypatch: pytest.MonkeyPatch) -> Open:
    """open_page("feature", feature="3") -> the page as the address would show it."""

    def open_(name: str, store: Path = store_path, **params: str) -> AppTest:
        monkeypatch.setenv("SPARSE_REP_STORE", str(store))
        at = AppTest.from_function(_page, args=(name,), default_timeout=30)
        for key, value in params.items():
            at.query_params[key] = value
        at.run()
        assert not at.exception, at.exception
        return at

    return open_
