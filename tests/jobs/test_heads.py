import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sparse_rep.attention.dense import dense
from sparse_rep.attention.methods.registry import build_method, method_classes
from sparse_rep.attention.score import score
from sparse_rep.config import HeadsConfig
from sparse_rep.errors import ConfigError
from sparse_rep.jobs.heads import profile_heads
from sparse_rep.jobs.task import LocalExecutor
from sparse_rep.progress import Reporter
from sparse_rep.store import Store

LENGTH = 96
METHODS = ("a_shape", "block_sparse", "quest", "sparsed")


@pytest.fixture(scope="module")
def settings(workshop: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., HeadsConfig]:
    """Settings for the tiny model on parts of a file of the standard library, each long enough for a text."""
    folder = tmp_path_factory.mktemp("text")
    source = Path(sysconfig.get_path("stdlib"), "textwrap.py").read_text()
    for part in range(3):
        (folder / f"{part}.py").write_text(source[part * 900 : part * 900 + 2000])

    def make(store: Path, length: int = LENGTH, **changes: Any) -> HeadsConfig:
        values = {
            "model": {"name": str(workshop / "model"), "device": "cpu"},
            "text": {"sources": [str(folder)], "context": length},
            "methods": METHODS,
            "budgets": [0.1, 0.5],
            "texts": 2,
            "store": store,
        }
        return HeadsConfig.checked({**values, **changes})

    return make


def run(config: HeadsConfig, executor: Any = None) -> dict[str, Any]:
    return profile_heads(config, Reporter(silent=True), executor)


@pytest.fixture(scope="module")
def profiled(
    settings: Callable[..., HeadsConfig], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Store, dict[str, Any]]:
    config = settings(tmp_path_factory.mktemp("profiled"), maps=[1], effects="model")
    return Store(config.store, create=True), run(config)


def test_every_head_has_a_profile_and_every_method_a_row(profiled: tuple[Store, dict[str, Any]]) -> None:
    store, summary = profiled
    heads = store.query("SELECT layer, head, n_texts, length, class FROM heads ORDER BY layer, head").to_pylist()
    assert [(r["layer"], r["head"]) for r in heads] == [(layer, head) for layer in range(3) for head in range(4)]
    assert {(r["n_texts"], r["length"]) for r in heads} == {(2, LENGTH)}
    assert all(r["class"] for r in heads)
    assert summary["heads"] == 12
    assert summary["head_methods"] == 12 * len(METHODS) * 2
    applies = store.query("SELECT method, applies, count(*) AS n, count(reason) AS told FROM head_methods GROUP BY ALL")
    found = {(r["method"], r["applies"]): (r["n"], r["told"]) for r in applies.to_pylist()}
    assert found == {
        ("a_shape", "prefill"): (24, 0),
        ("block_sparse", "prefill"): (24, 0),
        ("quest", "decode"): (24, 0),
        ("sparsed", "n/a"): (24, 24),
    }


def test_no_method_beats_its_oracle_or_breaks_its_bound(profiled: tuple[Store, dict[str, Any]]) -> None:
    store, _ = profiled
    rows = store.query("SELECT * FROM head_methods WHERE applies <> 'n/a'").to_pylist()
    for row in rows:
        assert row["recall_mean"] <= row["oracle"] + 1e-6
        assert row["bound"] <= 1
        assert 0 < row["density"] <= row["block_density"] + 1e-9
        assert row["recall_p5"] <= row["recall_mean"] + 1e-9


def test_maps_links_and_writes_speak_of_the_text_itself(profiled: tuple[Store, dict[str, Any]]) -> None:
    store, _ = profiled
    maps = store.query(
        "SELECT layer, sum(list_sum(mass)) AS mass, count(*) AS n FROM head_maps GROUP BY layer"
    ).to_pylist()
    assert [(m["layer"], m["n"]) for m in maps] == [(1, 2 * 4)]
    assert maps[0]["mass"] == pytest.approx(8, abs=1e-4)
    links = store.query("SELECT * FROM head_links").to_pylist()
    assert all(link["key_tok"] <= link["tok"] < link["tok_lo"] + LENGTH for link in links)
    firsts = [link for link in links if link["rank"] == 1]
    assert len(firsts) == 2 * 12 * 32
    writes = store.query(
        "SELECT tok, count(*) AS n, count(DISTINCT unit) AS units FROM head_writes GROUP BY tok"
    ).to_pylist()
    assert len(writes) == 2 * LENGTH
    assert {(w["n"], w["units"]) for w in writes} == {(8, 8)}
    spread = store.query("SELECT layer, head, tok_lo, sum(mass) AS mass FROM head_distances GROUP BY ALL").to_pylist()
    assert all(s["mass"] == pytest.approx(1, abs=1e-5) for s in spread)
    effects = store.query("SELECT method, budget, kl FROM head_effects ORDER BY ALL").to_pylist()
    assert {e["method"] for e in effects} == set(METHODS) - {"sparsed"}
    assert all(e["kl"] >= -1e-9 for e in effects)


def test_stored_scores_are_those_of_the_layer_itself(
    profiled: tuple[Store, dict[str, Any]], settings: Callable[..., HeadsConfig]
) -> None:
    from sparse_rep.attention.capture import attention_seen
    from sparse_rep.corpora.tokenised import Corpus
    from sparse_rep.hosting.load import load_model

    store, summary = profiled
    model = load_model(settings(store.path).model)
    corpus = Corpus.read(store, summary["corpus_id"])
    rows = store.query(
        "SELECT * FROM head_method_texts WHERE layer = 1 AND method = 'a_shape' AND budget = 0.1 ORDER BY tok_lo, head"
    ).to_pylist()
    lo = rows[0]["tok_lo"]
    layers = []
    with torch.no_grad(), attention_seen(model, lambda layer, row: layers.append(layer)):
        model.logits(torch.as_tensor(corpus.token_ids[lo : lo + LENGTH].astype("int64"))[None])
    method = build_method("a_shape")
    (want,) = score(dense(layers[1]), [method.estimate(layers[1], 0.1)])
    for name in ("density", "recall_mean", "oracle", "out_err"):
        assert [r[name] for r in rows[:4]] == pytest.approx(getattr(want, name).tolist(), abs=1e-6)


class StopsAfter(LocalExecutor):
    """Dies after some shards, as a killed job does."""

    def __init__(self, shards: int) -> None:
        self.shards = shards

    def map(self, make_worker: Any, tasks: Any) -> Any:
        for done, result in enumerate(super().map(make_worker, tasks)):
            if done == self.shards:
                raise KeyboardInterrupt
            yield result


def test_a_run_that_was_stopped_goes_on_and_ends_as_if_it_had_not_been(
    settings: Callable[..., HeadsConfig], tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(settings(tmp_path / "store"), StopsAfter(1))
    stopped = run(settings(tmp_path / "store"))
    whole = run(settings(tmp_path / "other"))
    assert stopped["run_id"] == whole["run_id"]
    for table in ("heads", "head_methods"):
        sql = f"SELECT * FROM {table} ORDER BY ALL"
        assert Store(tmp_path / "store").query(sql).equals(Store(tmp_path / "other").query(sql))


def test_texts_read_together_give_what_each_gives_alone(settings: Callable[..., HeadsConfig], tmp_path: Path) -> None:
    run(settings(tmp_path / "apart"))
    run(settings(tmp_path / "together", shard_tokens=1000))
    sql = "SELECT * EXCLUDE (run_id) FROM {} ORDER BY ALL"
    for table in ("head_texts", "head_method_texts"):
        apart, together = (
            Store(tmp_path / kind).query(sql.format(table)).to_pylist() for kind in ("apart", "together")
        )
        assert len(apart) == len(together) > 0
        for a, b in zip(apart, together, strict=True):
            numbers = [name for name, value in a.items() if isinstance(value, float)]
            assert [b[name] for name in numbers] == pytest.approx([a[name] for name in numbers], abs=1e-4)


def test_all_means_every_method_that_there_is(settings: Callable[..., HeadsConfig], tmp_path: Path) -> None:
    config = settings(tmp_path, methods=["all"], budgets=[0.2], texts=1)
    run(config)
    found = Store(config.store).query("SELECT DISTINCT method FROM head_methods")["method"].to_pylist()
    assert set(found) == set(method_classes())


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"methods": ["a_shape", "magic"]}, "there is no method 'magic'; choose among a_shape"),
        ({"budgets": [0.1, 1.5]}, r"a budget is a share of the visible pairs in \(0, 1\], or paper, not 1.5"),
        ({"budgets": [0.0]}, "not 0"),
        ({"settings": {"quest": {"pages": 3}}}, "there is no such setting"),
        ({"settings": {"snapkv": {"capacity": 3}}}, "which --methods does not name"),
        ({"maps": [7]}, r"maps are wanted of layers \[7\]"),
        ({"length": 3000}, "has 2048 positions: lower --length"),
        ({"length": 1800}, "no document of the text has 1800 tokens, the longest has"),
        ({"model": {"name": "nowhere", "device": "cuda:99"}}, "cuda:99"),
    ],
    ids=str,
)
def test_what_cannot_work_is_told_before_any_work(
    settings: Callable[..., HeadsConfig], tmp_path: Path, changes: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ConfigError, match=complaint):
        run(settings(tmp_path, **changes))


def test_out_of_gpu_memory_in_the_model_itself_says_what_fits(
    settings: Callable[..., HeadsConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sparse_rep.hosting.huggingface import HuggingFaceModel

    def full(*_: Any) -> None:
        raise torch.cuda.OutOfMemoryError

    monkeypatch.setattr(HuggingFaceModel, "capture", full)
    with pytest.raises(ConfigError, match="try --length 48"):
        run(settings(tmp_path))
