"""Sweeps: one stream, many dictionaries, each as if it had been trained alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sparse_rep.config import TrainConfig
from sparse_rep.errors import ConfigError
from sparse_rep.jobs import training
from sparse_rep.jobs.sweep import members
from sparse_rep.jobs.training import train_dictionaries, train_dictionary
from sparse_rep.progress import Reporter
from sparse_rep.saes.formats.stored import load_dictionary
from sparse_rep.store import Store

Make = Callable[..., TrainConfig]


def weights(store: Path, name: str) -> dict[str, torch.Tensor]:
    return load_dictionary(Store(store).dictionary_path(name)).state_dict()


def test_a_sweep_stands_for_every_combination(train_config: Make) -> None:
    made = members(train_config(sweep={"dictionary.k": [2, 4], "seed": [0, 1], "lr": ["1e-3"]}))
    assert list(made) == ["k2-seed0-lr1e-3", "k2-seed1-lr1e-3", "k4-seed0-lr1e-3", "k4-seed1-lr1e-3"]
    assert made["k4-seed1-lr1e-3"].dictionary.model_dump()["k"] == 4
    assert made["k4-seed1-lr1e-3"].lr == 1e-3
    assert made["k2-seed0-lr1e-3"].dictionary.n_latents == 64  # what does not vary is kept


def test_another_architecture_keeps_the_settings_it_shares(train_config: Make) -> None:
    made = members(train_config(sweep={"dictionary.kind": ["topk", "standard"]}))
    assert {name: member.dictionary.kind for name, member in made.items()} == {"topk": "topk", "standard": "standard"}
    assert made["standard"].dictionary.n_latents == 64


@pytest.mark.parametrize(
    ("sweep", "named"),
    [
        ({"hook": ["a", "b"]}, "cannot vary hook"),
        ({"dictionary.k": [4, 4]}, "values that differ"),
        ({"dictionary.k": [4, 400]}, r"sweep member k400: .*lower k or widen"),
        ({"dictionary.kind": ["topk", "top"]}, "none of topk, batchtopk"),
    ],
)
def test_a_sweep_that_cannot_be_is_one_clear_sentence(train_config: Make, sweep: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named) as caught:
        members(train_config(sweep=sweep))
    assert "\n" not in str(caught.value)


def test_members_are_dictionaries_of_their_own_with_metrics_of_their_own_and_equal_to_training_alone(
    train_config: Make, quiet: Reporter, tmp_path: Path
) -> None:
    short = {"n_tokens": 1600, "store": tmp_path / "sweep"}
    trained = train_dictionaries(train_config(**short, sweep={"dictionary.k": [2, 4]}), quiet)
    alone = train_dictionary(train_config(**{**short, "store": tmp_path / "alone"}), quiet)
    two, four = (summary["dictionary_id"] for summary in trained)
    assert two.endswith("-k2")
    assert four.endswith("-k4")
    mine, expected = weights(tmp_path / "sweep", four), weights(tmp_path / "alone", alone["dictionary_id"])
    assert all(torch.equal(mine[name], expected[name]) for name in expected)
    rows = Store(tmp_path / "sweep").query(
        "SELECT dictionary_id, split, count(*) AS n FROM metrics WHERE metric = 'fvu' AND domain IS NULL GROUP BY ALL"
    )
    assert {(r["dictionary_id"], r["split"]): r["n"] for r in rows.to_pylist()} == {
        (two, "train"): 1,
        (two, "heldout"): 1,
        (four, "train"): 1,
        (four, "heldout"): 1,
    }
    assert trained[0]["l0"] <= 2 < trained[1]["l0"]


def test_a_sweep_stopped_in_the_middle_goes_on_and_ends_with_the_same_weights(
    train_config: Make, quiet: Reporter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"n_tokens": 1280, "log_every": 5, "sweep": {"dictionary.kind": ["topk", "batchtopk", "mp", "gated"]}}
    whole = train_dictionaries(train_config(**settings, store=tmp_path / "whole"), quiet)
    broken = train_config(**settings, store=tmp_path / "broken", checkpoint_seconds=0)
    add = training.MetricRows.add

    def stop_at_15(self: training.MetricRows, name: str, step: int, values: dict[str, float]) -> None:
        add(self, name, step, values)
        if step == 15:
            raise KeyboardInterrupt

    monkeypatch.setattr(training.MetricRows, "add", stop_at_15)
    with pytest.raises(KeyboardInterrupt):
        train_dictionaries(broken, quiet)
    monkeypatch.setattr(training.MetricRows, "add", add)
    resumed = train_dictionaries(broken, quiet)
    assert len(resumed) == 4
    for one, other in zip(whole, resumed, strict=True):
        expected, mine = (
            weights(tmp_path / "whole", one["dictionary_id"]),
            weights(tmp_path / "broken", other["dictionary_id"]),
        )
        assert all(torch.equal(mine[name], expected[name]) for name in expected), one["dictionary_id"]
    steps = Store(tmp_path / "broken").query(
        "SELECT step, count(*) AS n FROM metrics WHERE metric = 'fvu' AND step > 0 GROUP BY step ORDER BY step"
    )
    assert steps["step"].to_pylist() == [5, 10, 15, 20]
    assert set(steps["n"].to_pylist()) == {4}
