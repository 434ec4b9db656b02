"""The routing job: what is stored is what the routers did, whatever was interrupted and however it was batched."""

import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

sys.path.append(str(Path(__file__).parents[1] / "routing"))  # for mixtures

from mixtures import save_mixture
from typer.testing import CliRunner

from sparse_rep.cli.main import build
from sparse_rep.config import ModelConfig, RoutingConfig, TopKConfig
from sparse_rep.errors import ConfigError
from sparse_rep.hosting.load import load_model
from sparse_rep.jobs.codes import DictionaryCapture
from sparse_rep.jobs.coordinator import run_captures
from sparse_rep.jobs.dictionaries import find_dictionary
from sparse_rep.jobs.routing import RoutingCapture, profile_routing
from sparse_rep.jobs.task import LocalExecutor, ShardResult, ShardTask, Worker
from sparse_rep.progress import Reporter
from sparse_rep.routing.capture import routing_activations
from sparse_rep.saes.formats.stored import save_dictionary
from sparse_rep.saes.topk import TopK
from sparse_rep.store import Store, seal, verify

Make = Callable[..., RoutingConfig]


@pytest.fixture(scope="session")
def mixtures(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def make(family: str) -> Path:
        return made.setdefault(family, save_mixture(tmp_path_factory.mktemp(family), family))

    return make


@pytest.fixture
def routing_config(mixtures: Callable[[str], Path], workshop: Path, tmp_path: Path) -> Make:
    def make(family: str = "qwen2_moe", **changes: Any) -> RoutingConfig:
        settings = {
            "name": "routing",
            "model": {"name": str(mixtures(family)), "device": "cpu"},
            "text": {"sources": [str(workshop / "prose"), str(workshop / "code")], "context": 24, "n_tokens": 1500},
            "shard_tokens": 300,
            "batch_tokens": 128,
            "store": str(tmp_path / "store"),
        }
        return RoutingConfig.checked({**settings, **changes})

    return make


def rows(store: Store, run: str) -> dict[str, np.ndarray]:
    found = store.query(
        "SELECT layer, tok, rank, expert, weight, margin FROM routes WHERE run_id = $r ORDER BY ALL", r=run
    )
    return {name: found[name].to_numpy() for name in found.column_names}


@pytest.mark.parametrize("family", ["qwen2_moe", "deepseek_v3"])
def test_routes_are_the_models_window_by_window(family: str, routing_config: Make, quiet: Reporter) -> None:
    """The oracle looks at one window at a time, without shards, batches or padding."""
    config = routing_config(family)
    done = profile_routing(config, quiet)
    store = Store(config.store)
    model = load_model(ModelConfig(name=config.model.name, device="cpu"))
    tokens = store.corpus_tokens(done["corpus_id"]).astype(np.int64)
    found = rows(store, done["run_id"])
    k = 2 if family == "qwen2_moe" else 3
    layers = [0, 2] if family == "qwen2_moe" else [1, 2]
    assert len(found["tok"]) == done["n_rows"] == len(tokens) * k * len(layers)
    different = 0
    for doc in store.corpus_docs(done["corpus_id"]).to_pylist()[:4]:
        for lo in range(doc["tok_lo"], doc["tok_hi"], 24):
            hi = min(lo + 24, doc["tok_hi"])
            said = routing_activations(model, torch.from_numpy(tokens[lo:hi])[None])
            for layer in layers:
                mine = (found["layer"] == layer) & (found["tok"] >= lo) & (found["tok"] < hi)
                indices = said[f"blocks.{layer}.mlp.hook_expert_indices"].flatten().numpy()
                weights = said[f"blocks.{layer}.mlp.hook_expert_weights"].flatten().numpy()
                same = found["expert"][mine] == indices
                different += int((~same).sum())
                np.testing.assert_allclose(found["weight"][mine][same], weights[same], rtol=2**-8)
    assert different <= 4  # near-ties fall either way when batch shapes change the last bits of a product


def test_totals_are_the_sums_of_the_routes(routing_config: Make, quiet: Reporter) -> None:
    config = routing_config("qwen2_moe")
    run = profile_routing(config, quiet)["run_id"]
    store = Store(config.store)
    counted = store.query(
        """
        SELECT layer, expert, count(*) AS n, sum(weight) / sum(sum(weight)) OVER (PARTITION BY layer) AS importance
        FROM routes WHERE run_id = $r GROUP BY layer, expert ORDER BY ALL
        """,
        r=run,
    ).to_pylist()
    experts = store.query("SELECT * FROM experts WHERE run_id = $r ORDER BY layer, expert", r=run).to_pylist()
    by_id = {(e["layer"], e["expert"]): e for e in experts}
    assert len(by_id) == 2 * (8 + 1)  # two sparse layers, eight experts to choose and one shared
    n = store.query("SELECT count(DISTINCT tok) AS n FROM routes WHERE run_id = $r", r=run).to_pylist()[0]["n"]
    for row in counted:
        expert = by_id[row["layer"], row["expert"]]
        assert expert["n_tokens"] == row["n"]
        assert expert["load"] == pytest.approx(row["n"] / (n * 2))
        assert expert["importance"] == pytest.approx(row["importance"], rel=3e-3)  # stored weights are bfloat16
    for layer in (0, 2):
        assert sum(e["load"] for e in experts if e["layer"] == layer and not e["shared"]) == pytest.approx(1)
        assert sum(e["mean_prob"] or 0 for e in experts if e["layer"] == layer) == pytest.approx(1, rel=1e-5)
        assert [e["n_tokens"] for e in experts if e["layer"] == layer and e["shared"]] == [n]
    routers = store.query("SELECT * FROM routers WHERE run_id = $r ORDER BY layer", r=run).to_pylist()
    assert [(r["layer"], r["module"], r["n_experts"], r["n_shared"], r["k"]) for r in routers] == [
        (0, "model.layers.0.mlp.gate", 8, 1, 2),
        (2, "model.layers.2.mlp.gate", 8, 1, 2),
    ]
    assert all(r["n_tokens"] == n and r["score"] == "softmax" and 0 < r["entropy"] < 3 for r in routers)


class StopAfter:
    def __init__(self, shards: int) -> None:
        self.shards = shards

    def map(self, make_worker: Callable[[], Worker], tasks: Iterable[ShardTask]) -> Iterator[ShardResult]:
        for done, result in enumerate(LocalExecutor().map(make_worker, tasks)):
            if done == self.shards:
                raise KeyboardInterrupt
            yield result


def test_an_interrupted_profile_resumes_and_ends_with_the_same_rows(routing_config: Make, quiet: Reporter) -> None:
    whole = profile_routing(routing_config(), quiet)
    store = Store(routing_config().store)
    config = routing_config(name="broken")
    with pytest.raises(KeyboardInterrupt):
        profile_routing(config, quiet, StopAfter(2))
    live = store.query("SELECT run_id, status, n_shards FROM runs WHERE name = 'broken'").to_pylist()[0]
    assert (live["status"], live["n_shards"]) == ("live", 2)
    assert len(rows(store, live["run_id"])["tok"]) > 0  # and can be looked at meanwhile
    resumed = profile_routing(config, quiet)
    for name, column in rows(store, whole["run_id"]).items():
        np.testing.assert_array_equal(column, rows(store, resumed["run_id"])[name])
    for table in ("experts", "routers"):
        by_name = [
            store.query(f"SELECT * EXCLUDE (run_id) FROM {table} WHERE run_id = $r ORDER BY ALL", r=r["run_id"])
            for r in (whole, resumed)
        ]
        assert by_name[0].equals(by_name[1])
    contents = [store.manifest(r["run_id"]).content_hash for r in (whole, resumed)]
    assert contents[0] == contents[1]
    assert contents[0] is not None


def test_a_dense_model_is_refused_before_anything_is_written(
    routing_config: Make, workshop: Path, quiet: Reporter
) -> None:
    config = routing_config(model={"name": str(workshop / "model"), "device": "cpu"})
    with pytest.raises(ConfigError, match="it is dense"):
        profile_routing(config, quiet)
    assert Store(config.store).query("SELECT count(*) AS n FROM routes").to_pylist() == [{"n": 0}]


def test_the_command_writes_routes(routing_config: Make, workshop: Path) -> None:
    config = routing_config("olmoe")
    arguments = ["--model", config.model.name, "--text", str(workshop / "code"), "--context", "24", "--device", "cpu"]
    result = CliRunner().invoke(build(), ["profile", "routing", *arguments, "--store", str(config.store), "--json"])
    assert result.exit_code == 0, result.output
    found = (
        Store(config.store).query("SELECT count(*) AS n, max(layer) AS l, max(rank) AS k FROM routes").to_pylist()[0]
    )
    assert found["n"] > 0
    assert (found["l"], found["k"]) == (2, 3)


def test_sealing_joins_the_shards_by_layer_and_changes_no_row(routing_config: Make, quiet: Reporter) -> None:
    config = routing_config("qwen2_moe")
    run = profile_routing(config, quiet)["run_id"]
    store = Store(config.store)
    before, hash_before = rows(store, run), store.manifest(run).content_hash
    assert len(store.manifest(run).shards) > 2
    seal(store, run)
    for name, column in rows(store, run).items():
        np.testing.assert_array_equal(column, before[name])
    manifest = store.manifest(run)
    assert manifest.content_hash == hash_before
    assert [file.path for file in manifest.joined["routes"]] == [
        "tables/routes/g1-00000.parquet",
        "tables/routes/g1-00002.parquet",
    ]
    on_disk = {str(p.relative_to(store.run_path(run))) for p in (store.run_path(run) / "tables" / "routes").iterdir()}
    assert on_disk == {file.path for file in manifest.joined["routes"]}
    in_order = store.query("SELECT tok FROM routes WHERE run_id = $r AND layer = 2 AND rank = 1", r=run)[
        "tok"
    ].to_numpy()
    assert (np.diff(in_order.astype(int)) > 0).all()
    assert verify(store, run) == []


def test_predictions_are_the_models_own(routing_config: Make, quiet: Reporter) -> None:
    config = routing_config("olmoe", predictions=True)
    done = profile_routing(config, quiet)
    store = Store(config.store)
    model = load_model(ModelConfig(name=config.model.name, device="cpu"))
    tokens = store.corpus_tokens(done["corpus_id"]).astype(np.int64)
    found = {r["tok"]: r for r in store.query("SELECT tok, token_id, loss FROM predictions").to_pylist()}
    assert len(found) == len(tokens)
    doc = store.corpus_docs(done["corpus_id"]).to_pylist()[1]
    lo, hi = doc["tok_lo"], min(doc["tok_lo"] + 24, doc["tok_hi"])
    window = torch.from_numpy(tokens[lo:hi])[None]
    assert [found[t]["token_id"] for t in range(lo, hi)] == model.logits(window)[0].argmax(-1).tolist()
    losses = [found[t]["loss"] for t in range(lo, hi)]
    assert losses[-1] is None
    np.testing.assert_allclose(losses[:-1], model.loss(window)[0].numpy(), rtol=1e-4)


def test_one_pass_feeds_dictionaries_and_routers(routing_config: Make, quiet: Reporter, tmp_path: Path) -> None:
    """What a capture finds does not depend on what else is taken in the same pass."""
    coder = TopK(TopKConfig(n_latents=32, k=4), 32)
    with torch.no_grad():
        for parameter in coder.parameters():
            parameter.copy_(torch.randn_like(parameter))
    save_dictionary(coder, tmp_path / "coder", {"hook_name": "blocks.0.hook_resid_post"})
    source = find_dictionary(Store(tmp_path / "store", create=True), str(tmp_path / "coder"))

    def codes() -> DictionaryCapture:
        return DictionaryCapture([source], activations="none", seed=0, kernels="auto")

    found = {}
    for name, captures in {
        "both": [codes(), RoutingCapture()],
        "codes": [codes()],
        "routes": [RoutingCapture()],
    }.items():
        config = routing_config(name=name)
        run = run_captures(config, captures, kind="extract", name=name, reporter=quiet)["run_id"]
        store = Store(config.store)
        queries = ("SELECT feature, tok, act FROM acts", "SELECT layer, tok, rank, expert, weight FROM routes")
        found[name] = [store.query(f"{q} WHERE run_id = $r ORDER BY ALL", r=run) for q in queries]
    assert found["both"][0].equals(found["codes"][0])
    assert found["both"][1].equals(found["routes"][1])
    assert min(len(table) for table in found["both"]) > 1000
