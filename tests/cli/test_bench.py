"""`sparse-rep bench`: what it prints, what it refuses, and that an interrupted experiment goes on."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sparse_rep.cli.bench._results import medians
from sparse_rep.cli.main import build
from sparse_rep.errors import ConfigError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SPARSE_REP_CACHE", str(tmp_path))
    return tmp_path


def run(*arguments: str) -> str:
    done = CliRunner().invoke(build(), ["bench", "fidelity", *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_json_is_one_object_a_method_and_seed_and_nothing_is_left_behind(cache: Path) -> None:
    out = run("--only", "hierarchy", "--seeds", "2", "--correlation", "0.1", "--steps", "5", "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    methods = ("mp", "batchtopk", "standard", "matryoshka")
    assert [(row["method"], row["seed"]) for row in rows] == [(m, seed) for m in methods for seed in (0, 1)]
    wanted = {"method", "seed", "absorption", "nmse", "l0", "flat_mse", "hierarchical_mse"}
    assert all(wanted <= set(row) for row in rows)
    assert not list((cache / "bench").iterdir())


def test_people_get_a_line_a_method() -> None:
    out = run("--only", "hierarchy", "--seeds", "1", "--correlation", "0", "--steps", "3")
    assert "sibling cosine 0" in out
    assert [line.split()[0] for line in out.splitlines()[-4:]] == ["mp", "batchtopk", "standard", "matryoshka"]


def test_medians_are_of_each_method_by_itself() -> None:
    rows = [{"method": m, "a": a} for m, a in (("x", 1), ("y", 10), ("x", 3), ("x", 100), ("y", 20))]
    assert medians(rows, ["a"]) == {"x": [3], "y": [15]}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--only", "hierarchie"), "there is no experiment 'hierarchie'; there are hierarchy, ksweep, recovery"),
        (("--only", "hierarchy", "--correlation", "a"), "comma-separated numbers, got 'a'"),
        (("--only", "hierarchy", "--correlation", "1.5"), "correlation"),
    ],
)
def test_what_cannot_be_run_is_refused_in_one_sentence(arguments: tuple[str, ...], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        run(*arguments)


def test_an_experiment_that_was_stopped_goes_on(cache: Path) -> None:
    """Stopped in its second method: the first is not trained again, and the rows are those of an undisturbed run."""
    arguments = ("--only", "hierarchy", "--seeds", "1", "--correlation", "0", "--steps", "30", "--json")
    undisturbed = run(*arguments)
    stop = (
        "import sparse_rep.evaluation.fidelity.populations as p\n"
        "def stop(*_): raise KeyboardInterrupt\n"
        "p.BatchTopKPopulation.losses = stop\n"
        f"import sys; sys.argv = ['sparse-rep', 'bench', 'fidelity', *{list(arguments)!r}]\n"
        "from sparse_rep.cli.main import main; main()"
    )
    assert subprocess.run([sys.executable, "-P", "-c", stop], capture_output=True, check=False).returncode == 130
    (ledger,) = (cache / "bench").iterdir()
    kept = ledger / "mp.json"
    kept.write_text(kept.read_text().replace('"seed": 0', '"seed": 77'))  # to see that it is this that is read
    resumed = run(*arguments)
    assert resumed == undisturbed.replace('"method": "mp", "seed": 0', '"method": "mp", "seed": 77')
    assert not ledger.exists()
