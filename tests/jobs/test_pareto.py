"""Every architecture at several sparsities into one store."""

from collections.abc import Callable
from pathlib import Path

import pytest

from sparse_rep.config import TrainConfig
from sparse_rep.config_dictionary import ARCHITECTURES
from sparse_rep.errors import DataError
from sparse_rep.jobs.pareto import pareto_sweeps, run_pareto
from sparse_rep.jobs.sweep import members
from sparse_rep.jobs.training import train_dictionaries
from sparse_rep.progress import Reporter
from sparse_rep.store import Store

LEVELS = (2, 6)


def test_every_architecture_comes_at_every_level_with_the_same_tokens(train_config: Callable[..., TrainConfig]) -> None:
    sweeps = pareto_sweeps(train_config(), LEVELS)
    made = [member for sweep in sweeps for member in members(sweep).values()]
    found = [
        (m.dictionary.kind, getattr(m.dictionary, "target_l0", None) or getattr(m.dictionary, "k", None)) for m in made
    ]
    assert sorted(found) == sorted((kind, level) for kind in ARCHITECTURES for level in LEVELS)
    shared = {(m.n_tokens, m.batch_tokens, m.seed, m.lr, m.hook, m.dictionary.n_latents, m.text) for m in made}
    assert len(shared) == 1


def test_a_row_a_dictionary_and_none_is_trained_twice(train_config: Callable[..., TrainConfig], tmp_path: Path) -> None:
    base = train_config(n_tokens=1280)
    rows = run_pareto(base, LEVELS, Reporter(silent=True))
    assert len(rows) == len(ARCHITECTURES) * len(LEVELS)
    assert all({"explained_variance", "ce_recovered", "l0", "dictionary_id"} <= set(row) for row in rows)
    counted = [row for row in rows if row["method"] in ("topk", "mp")]
    assert [row["l0"] for row in counted] == pytest.approx([row["aimed_l0"] for row in counted], abs=0.5)
    store = Store(base.store)
    assert {row["dictionary_id"] for row in rows} == set(
        store.query("SELECT DISTINCT dictionary_id FROM metrics WHERE split = 'heldout'")["dictionary_id"].to_pylist()
    )
    before = {path: path.stat().st_mtime_ns for path in (base.store / "dictionaries").rglob("*.safetensors")}
    assert run_pareto(base, LEVELS, Reporter(silent=True)) == rows
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_text_that_changes_between_the_sweeps_is_noticed(
    train_config: Callable[..., TrainConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise two families would be drawn in one figure that were scored on different text."""
    text = tmp_path / "text"
    text.mkdir()
    for part in range(6):
        (text / f"{part}.txt").write_text(f"Beautiful is better than ugly, said number {part}. " * 12)
    base = train_config(n_tokens=128, text={"sources": [str(text)], "context": 24, "heldout_share": 0.3})

    def train_and_edit(config: TrainConfig, reporter: Reporter) -> list[dict[str, object]]:
        trained = train_dictionaries(config, reporter)
        (text / "0.txt").write_text("Explicit is better than implicit. " * 12)
        return trained

    monkeypatch.setattr("sparse_rep.jobs.pareto.train_dictionaries", train_and_edit)
    with pytest.raises(DataError, match="text changed between the two sweeps"):
        run_pareto(base, (2,), Reporter(silent=True))
