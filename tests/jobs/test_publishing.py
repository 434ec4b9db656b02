"""`sparse-rep export` of dictionaries, and SAELens' layout of them: its own loader is the oracle."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from handmade import HOOK, QUIET, D, M, N, corpus_only, dictionary, one_sealed, put

from sparse_rep.config_dictionary import ARCHITECTURES
from sparse_rep.errors import ConfigError
from sparse_rep.jobs.neuronpedia import publish_neuronpedia
from sparse_rep.jobs.publishing import publish_saelens
from sparse_rep.store import Store, StoreError


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Read it, never write it."""
    return one_sealed(tmp_path_factory.mktemp("sealed") / "store")


@pytest.fixture
def store(sealed: Store, tmp_path: Path) -> Store:
    """A copy to write to."""
    shutil.copytree(sealed.path, tmp_path / "store")
    return Store(tmp_path / "store")


@pytest.fixture
def empty(tmp_path: Path) -> Store:
    return corpus_only(tmp_path / "store")


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_sae_lens_loads_each_exported_folder_with_equal_codes(empty: Store, tmp_path: Path, kind: str) -> None:
    sae_lens = pytest.importorskip("sae_lens")
    ours = dictionary(kind, 40, **({} if kind in ("standard", "jumprelu", "gated") else {"k": 4}))
    put(empty, "one", ours)
    publish_saelens(empty, tmp_path / "out", QUIET)
    theirs = sae_lens.SAE.load_from_disk(tmp_path / "out" / "one")
    x = torch.randn(50, D, generator=torch.Generator().manual_seed(1)) * 9 + 1
    with torch.no_grad():
        expected, found = ours.encode(x).coalesce().dense(), theirs.encode(x)
    found = found.to_dense() if found.is_sparse else found
    assert (expected != 0).any()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)
    assert theirs.cfg.metadata.hook_name == HOOK
    assert theirs.cfg.metadata.model_name == "org/tiny-it"


def test_sparsity_is_the_log_of_the_firing_rate_of_a_sealed_run_and_missing_without_one(
    store: Store, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    put(store, "never-ran", dictionary("topk", k=4))
    written = publish_saelens(store, tmp_path / "out", QUIET)
    assert [(w["dictionary_id"], w["run_id"]) for w in written] == [("never-ran", None), ("one", "run-eeeeeeee")]
    rates = load_file(tmp_path / "out" / "one" / "sparsity.safetensors")["sparsity"]
    expected = torch.full((M,), -10.0)
    expected[0], expected[5], expected[130] = (float(np.log10(n / N)) for n in (3, 1, 2))
    torch.testing.assert_close(rates, expected)
    assert sorted(p.name for p in (tmp_path / "out" / "never-ran").iterdir()) == ["cfg.json", "sae_weights.safetensors"]


def test_the_model_card_names_the_library_and_what_each_dictionary_is(store: Store, tmp_path: Path) -> None:
    publish_saelens(store, tmp_path / "out", QUIET)
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: saelens\n---\n")
    assert "| `one` | topk | 300 | `blocks.2.hook_resid_post` | org/tiny-it (4-bit) |" in card


def test_a_dictionary_that_sae_lens_does_not_have_is_refused_and_nothing_is_left(store: Store, tmp_path: Path) -> None:
    put(store, "tc", dictionary("topk", d_out=5, k=4))
    with pytest.raises(ConfigError, match="tc is a topk transcoder"):
        publish_saelens(store, tmp_path / "out", QUIET)
    assert [p.name for p in tmp_path.iterdir()] == ["store"]
    publish_saelens(store, tmp_path / "out", QUIET, dictionaries=["one"])


@pytest.mark.parametrize("publish", [publish_saelens, publish_neuronpedia])
def test_a_folder_that_is_there_is_not_touched(store: Store, tmp_path: Path, publish: Callable[..., Any]) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(StoreError, match="is there already"):
        publish(store, tmp_path / "out", QUIET)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["mine"]


def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    from sparse_rep.cli.main import main

    monkeypatch.setattr("sys.argv", ["sparse-rep", "export", *args])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0), *capsys.readouterr()


def test_the_verb_reports_what_it_wrote(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for format_, key in (("saelens", "architecture"), ("neuronpedia", "source")):
        args = ("--store", str(store.path), "--format", format_, "--out", str(tmp_path / format_), "--json")
        code, out, _ = call(monkeypatch, capsys, *args)
        result = json.loads(out)
        assert code == 0
        assert result["dictionaries"][0][key] in ("topk", "tiny-it/2-one")
        assert result["bytes"] == sum(p.stat().st_size for p in (tmp_path / format_).rglob("*") if p.is_file())


@pytest.mark.parametrize(
    "args",
    [
        ("--format", "saelens", "--runs", "run-eeeeeeee"),
        ("--format", "duckdb", "--dictionaries", "one"),
        ("--format", "saelens", "--source-set", "res"),
    ],
)
def test_an_option_of_another_format_is_refused(
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    args: tuple[str, ...],
) -> None:
    code, _, err = call(monkeypatch, capsys, "--store", str(store.path), "--out", str(tmp_path / "out"), *args)
    assert code == 2
    assert err.count("\n") == 1, "one sentence"
    assert not (tmp_path / "out").exists()
