"""Starting the app: what it imports, what the command line hands to streamlit."""

import subprocess
import sys
from importlib.resources import files
from pathlib import Path

from typer.testing import CliRunner

from sparse_rep.app.shell import page_modules
from sparse_rep.cli.app import arguments


def test_the_app_never_imports_torch(store_path):
    script = (
        "import sys; from streamlit.testing.v1 import AppTest; from importlib.resources import files; "
        "at = AppTest.from_file(str(files('sparse_rep.app.entry').joinpath('main.py')), default_timeout=30).run(); "
        "assert not at.exception; print(sorted({m.split('.')[0] for m in sys.modules} & {'torch', 'transformers', 'sae_lens'}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={"SPARSE_REP_STORE": str(store_path), "PATH": "", "HOME": str(store_path)},
        cwd=store_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"


def test_every_page_has_an_address_of_its_own_and_one_is_the_first():
    modules = page_modules()
    assert [m.PATH for m in modules].count("") == 1
    assert len({m.PATH for m in modules}) == len(modules)
    assert [m.ORDER for m in modules] == sorted(m.ORDER for m in modules)


def test_streamlit_runs_the_installed_entry_point_quietly():
    given = arguments(port=8600, address="127.0.0.1", browser=False)
    assert given[:3] == ["-m", "streamlit", "run"]
    assert Path(given[3]) == Path(str(files("sparse_rep.app.entry").joinpath("main.py")))
    assert (Path(given[3]).parent / ".streamlit" / "config.toml").is_file()
    assert {"--server.port=8600", "--server.headless=true", "--browser.gatherUsageStats=false"} <= set(given)


def test_a_folder_that_is_no_store_stops_before_a_server_starts(tmp_path):
    from sparse_rep.cli.main import build
    from sparse_rep.errors import SparseRepError

    result = CliRunner().invoke(build(), ["app", "--store", str(tmp_path)])
    assert isinstance(result.exception, SparseRepError)
    assert "is not a store" in str(result.exception)
