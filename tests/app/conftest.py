"""One store of hand-written detectors for all tests of the app, and a way to open a page of it without a browser."""

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
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


CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@contextmanager
def served(store: Path, folder: Path) -> Iterator[str]:
    """Address of the app as a user starts it, from another directory."""
    address = f"http://127.0.0.1:{free_port()}"
    log = folder / "log"
    verb = [sys.executable, "-m", "sparse_rep.cli.main", "app", "--store", str(store), "--no-browser"]
    with log.open("wb") as out:
        server = subprocess.Popen(
            [*verb, "--port", address.rsplit(":", 1)[1]],
            stdout=out,
            stderr=out,
            cwd=folder,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )
        try:
            for _ in range(120):
                assert server.poll() is None, log.read_text("utf-8")
                try:
                    urllib.request.urlopen(f"{address}/_stcore/health", timeout=1)
                    break
                except OSError:
                    time.sleep(0.25)
            yield address
        finally:
            server.terminate()
            server.wait(10)


@pytest.fixture(scope="session")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Path], str]]:
    """serve(store) -> the address of an app on it, which runs until the tests end."""
    with ExitStack() as servers:
        yield lambda store: servers.enter_context(served(store, tmp_path_factory.mktemp("server")))


@pytest.fixture(scope="session")
def browser():
    if not Path(CHROMIUM).exists():
        pytest.skip("no chromium on this machine: apt install chromium")
    sync_api = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install 'sparse-rep[dev]'"
    )
    with sync_api.sync_playwright() as p:
        chromium = p.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()
