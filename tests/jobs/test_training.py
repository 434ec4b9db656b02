"""The training job: what it leaves in the store, and that nothing is done twice."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sparse_rep.config import TrainConfig
from sparse_rep.errors import ConfigError
from sparse_rep.jobs import training
from sparse_rep.jobs.training import train_dictionary
from sparse_rep.progress import Reporter
from sparse_rep.saes.formats.directory import read_cfg
from sparse_rep.saes.formats.stored import load_dictionary
from sparse_rep.store import Store

Make = Callable[..., TrainConfig]


def test_final_metrics_are_rows_with_split_heldout(trained: dict[str, Any], train_config: Make) -> None:
    rows = (
        Store(train_config().store)
        .query(
            "SELECT domain, metric, value FROM metrics WHERE dictionary_id = $id AND split = 'heldout' AND step IS NULL",
            id=trained["dictionary_id"],
        )
        .to_pylist()
    )
    overall = {r["metric"]: r["value"] for r in rows if r["domain"] is None}
    assert overall["explained_variance"] == pytest.approx(1 - overall["fvu"])
    assert 0.3 < overall["explained_variance"] <= 1
    assert 0 < overall["l0"] <= 4
    assert 0 <= overall["dead_share"] < 1
    assert overall["n_tokens"] < overall["n_tokens_all_tokens"]
    assert {r["domain"] for r in rows} == {None, "prose", "code"}
    # A random model's loss hardly depends on the dictionary: only that it was measured can be claimed.
    assert {"ce_clean", "ce_spliced", "ce_ablated", "ce_recovered"} <= set(overall)


def test_the_saved_dictionary_says_where_it_came_from(trained: dict[str, Any], train_config: Make) -> None:
    metadata = read_cfg(Store(train_config().store).dictionary_path(trained["dictionary_id"]))["metadata"]
    assert metadata["hook_name"] == "blocks.1.hook_resid_post"
    assert metadata["sparse_rep_run_id"] == trained["run_id"]
    assert metadata["sparse_rep_corpus_id"] in {p.name for p in (train_config().store / "corpora").iterdir()}
    assert metadata["sparse_rep_config"]["dictionary"]["k"] == 4


def test_a_run_that_is_done_is_not_done_again(
    trained: dict[str, Any], train_config: Make, quiet: Reporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "load_model", lambda *a: pytest.fail("the model was loaded again"))
    assert train_dictionary(train_config(), quiet) == trained


def test_training_stopped_in_the_middle_goes_on_and_ends_with_the_same_weights(
    train_config: Make, quiet: Reporter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train_dictionary(train_config(store=tmp_path / "whole"), quiet)
    add = training.MetricRows.add

    def stop_at_75(self: training.MetricRows, name: str, step: int, values: dict[str, float]) -> None:
        add(self, name, step, values)
        if step == 75:
            raise KeyboardInterrupt

    broken = train_config(checkpoint_seconds=0)
    monkeypatch.setattr(training.MetricRows, "add", stop_at_75)
    with pytest.raises(KeyboardInterrupt):
        train_dictionary(broken, quiet)
    monkeypatch.setattr(training.MetricRows, "add", add)
    resumed = train_dictionary(broken, quiet)
    assert resumed["dictionary_id"] == whole["dictionary_id"]
    one, two = (
        load_dictionary(Store(path).dictionary_path(whole["dictionary_id"])).state_dict()
        for path in (tmp_path / "whole", broken.store)
    )
    assert all(torch.equal(one[name], two[name]) for name in one)
    steps = Store(broken.store).query(
        "SELECT step, count(*) AS n FROM metrics WHERE metric = 'fvu' AND step > 0 GROUP BY step"
    )
    assert sorted(steps["step"].to_pylist()) == [25, 50, 75, 100]
    assert set(steps["n"].to_pylist()) == {1}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"hook": "blocks.1.hook_resid_pots"}, "blocks.1.hook_resid_post"),
        ({"hook": "blocks.99.hook_mlp_out"}, "3 layers"),
        ({"dictionary": {"n_latents": 8, "k": 9}}, "lower k or widen"),
        ({"model": {"name": "/no/such/model"}}, "no model at /no/such/model"),
        ({"model": {"name": "gpt2", "device": "cuda:7"}}, "cuda:7"),
    ],
)
def test_a_setting_that_cannot_work_is_one_clear_sentence(
    train_config: Make, quiet: Reporter, changes: dict[str, Any], named: str
) -> None:
    with pytest.raises(ConfigError, match=named) as caught:
        train_dictionary(train_config(**changes), quiet)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("text", "named"), [("", "tokens"), ("a b c", "context")])
def test_too_little_text_is_named(train_config: Make, quiet: Reporter, tmp_path: Path, text: str, named: str) -> None:
    (tmp_path / "short.txt").write_text(text)
    with pytest.raises(ConfigError, match=named):
        train_dictionary(train_config(text={"sources": [str(tmp_path / "short.txt")], "context": 64}), quiet)
