"""The extraction job: its codes are the model's, whatever was interrupted and however it was batched."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from sparse_rep.config import ExtractConfig, TrainConfig
from sparse_rep.errors import ConfigError
from sparse_rep.jobs import coordinator
from sparse_rep.jobs.codes import sampled_tokens
from sparse_rep.jobs.dictionaries import find_dictionary
from sparse_rep.jobs.extract import extract
from sparse_rep.jobs.task import LocalExecutor, ShardResult, ShardTask, Worker
from sparse_rep.progress import Reporter
from sparse_rep.saes.formats.stored import load_dictionary
from sparse_rep.store import Store

Make = Callable[..., ExtractConfig]


class StopAfter:
    """An executor that is interrupted after some shards."""

    def __init__(self, shards: int) -> None:
        self.shards = shards

    def map(self, make_worker: Callable[[], Worker], tasks: Iterable[ShardTask]) -> Iterator[ShardResult]:
        for done, result in enumerate(LocalExecutor().map(make_worker, tasks)):
            if done == self.shards:
                raise KeyboardInterrupt
            yield result


def test_codes_are_those_of_the_plain_model_window_by_window(
    extracted: dict[str, Any], trained: dict[str, Any], extract_config: Make, workshop: Path
) -> None:
    """The oracle is transformers itself, one window at a time, without our hooks, batches or shards."""
    store = Store(extract_config("any").store)
    model = transformers.AutoModelForCausalLM.from_pretrained(workshop / "model").eval()
    dictionary = load_dictionary(store.dictionary_path(trained["dictionary_id"]))
    tokens = store.corpus_tokens(extracted["corpus_id"]).astype(np.int64)
    expected: dict[tuple[int, int], float] = {}
    for doc in store.corpus_docs(extracted["corpus_id"]).to_pylist():
        for lo in range(doc["tok_lo"], doc["tok_hi"], 24):
            window = torch.from_numpy(tokens[lo : min(lo + 24, doc["tok_hi"])])[None]
            with torch.no_grad():
                x = model(window, output_hidden_states=True).hidden_states[2][0]
                codes = dictionary.encode(x)
            for row, (values, indices) in enumerate(zip(codes.values.tolist(), codes.indices.tolist(), strict=True)):
                expected |= {(i, lo + row): v for v, i in zip(values, indices, strict=True) if i >= 0}
    rows = store.query("SELECT feature, tok, act FROM acts WHERE run_id = $run", run=extracted["run_id"]).to_pylist()
    found = {(r["feature"], r["tok"]): r["act"] for r in rows}
    assert len(found) == len(rows) > 1000
    # Near-ties may fall either way when batch shapes change the last bits of a product.
    assert len(found.keys() ^ expected.keys()) <= 0.001 * len(expected)
    for key in found.keys() & expected.keys():
        assert found[key] == pytest.approx(expected[key], rel=5e-3, abs=1e-4)


def test_an_interrupted_run_resumes_and_ends_with_the_same_content(
    extracted: dict[str, Any], trained: dict[str, Any], extract_config: Make, quiet: Reporter
) -> None:
    store = Store(extract_config("any").store)
    whole = store.manifest(extracted["run_id"]).content_hash
    config = extract_config(trained["dictionary_id"], name="broken")
    with pytest.raises(KeyboardInterrupt):
        extract(config, quiet, StopAfter(2))
    live = store.query("SELECT status, n_shards FROM runs WHERE name = 'broken'").to_pylist()
    assert live == [{"status": "live", "n_shards": 2}]
    assert store.query("SELECT count(*) AS n FROM acts WHERE starts_with(run_id, 'broken')").to_pylist()[0]["n"] > 0
    resumed = extract(config, quiet)
    assert store.manifest(resumed["run_id"]).content_hash == whole


def test_a_finished_run_is_not_done_again(
    extracted: dict[str, Any],
    trained: dict[str, Any],
    extract_config: Make,
    quiet: Reporter,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(coordinator, "load_model", lambda *a: pytest.fail("the model was loaded again"))
    assert extract(extract_config(trained["dictionary_id"]), quiet) == extracted


def test_one_pass_feeds_several_dictionaries(
    trained: dict[str, Any], train_config: Callable[..., TrainConfig], extract_config: Make, quiet: Reporter
) -> None:
    other = find_dictionary(Store(train_config().store), trained["dictionary_id"])
    second = train_config(name="second", dictionary={"n_latents": 48, "k": 2})
    from sparse_rep.jobs.training import train_dictionary

    two = train_dictionary(second, quiet)["dictionary_id"]
    both = extract(extract_config(other.dictionary_id, two, name="both"), quiet)
    alone = extract(extract_config(two, name="alone"), quiet)
    store = Store(train_config().store)
    codes = "SELECT feature, tok, act FROM acts WHERE run_id = $run AND dictionary_id = $id ORDER BY ALL"
    assert store.query(codes, run=both["run_id"], id=two).equals(store.query(codes, run=alone["run_id"], id=two))


def test_sampled_activations_are_the_models_and_can_be_searched_by_cosine(
    extracted: dict[str, Any], extract_config: Make
) -> None:
    store = Store(extract_config("any").store)
    rows = store.query("SELECT tok, len(x) AS d FROM activations WHERE run_id = $run", run=extracted["run_id"])
    assert rows["d"].to_pylist() == [32] * 50
    nearest = store.query(
        "SELECT b.tok FROM activations a, activations b WHERE a.run_id = $run AND b.run_id = $run AND a.tok = $tok "
        "ORDER BY array_cosine_similarity(a.x::FLOAT[32], b.x::FLOAT[32]) DESC LIMIT 1",
        run=extracted["run_id"],
        tok=rows["tok"].to_pylist()[7],
    )
    assert nearest["tok"].to_pylist() == [rows["tok"].to_pylist()[7]]


@pytest.mark.parametrize(("spec", "n"), [("none", 0), ("all", 30), ("sample:10", 10), ("sample:99", 30)])
def test_samples_are_distinct_sorted_tokens(spec: str, n: int) -> None:
    tokens = sampled_tokens(spec, 30, seed=0)
    assert len(tokens) == n == len(set(tokens.tolist()))
    assert sorted(tokens.tolist()) == tokens.tolist()


def test_sealed_pages_tell_tokens_promoted_and_neighbours(
    extracted: dict[str, Any], trained: dict[str, Any], extract_config: Make
) -> None:
    from sparse_rep.store import seal

    store = Store(extract_config("any").store)
    seal(store, extracted["run_id"])
    dictionary = load_dictionary(store.dictionary_path(trained["dictionary_id"]))
    unit = dictionary.atoms / dictionary.atoms.norm(dim=-1, keepdim=True)
    cosine = (unit[5] @ unit.T).index_fill(0, torch.tensor([5]), -2)
    best = store.query("SELECT other, cosine FROM feature_neighbors WHERE feature = 5 AND rank = 1").to_pylist()[0]
    assert best["other"] == int(cosine.argmax())
    assert best["cosine"] == pytest.approx(float(cosine.max()), abs=1e-5)
    logits = store.query(
        "SELECT sign, count(*) AS n, min(value) AS lo, max(value) AS hi FROM feature_logits "
        "WHERE feature = 5 GROUP BY sign ORDER BY sign"
    ).to_pylist()
    assert [r["n"] for r in logits] == [10, 10]
    assert logits[0]["hi"] < 0 < logits[1]["lo"]
    assert store.query("SELECT count(*) AS n FROM features").to_pylist() == [{"n": 64}]


@pytest.mark.parametrize(
    ("spec", "changes", "named"),
    [
        ("no-such-dictionary", {}, "sparse-rep train"),
        ("{trained}", {"model": {"name": "gpt2"}}, "was made for"),
    ],
)
def test_a_dictionary_that_does_not_fit_is_named(
    trained: dict[str, Any], extract_config: Make, quiet: Reporter, spec: str, changes: dict[str, Any], named: str
) -> None:
    with pytest.raises(ConfigError, match=named):
        extract(extract_config(spec.format(trained=trained["dictionary_id"]), **changes), quiet)


def test_a_dictionary_of_another_width_is_named(
    trained: dict[str, Any], extract_config: Make, quiet: Reporter, tmp_path: Path
) -> None:
    import json

    from sparse_rep.config import TopKConfig
    from sparse_rep.saes.formats.stored import save_dictionary
    from sparse_rep.saes.topk import TopK

    save_dictionary(
        TopK(TopKConfig(n_latents=8, k=2), 16), tmp_path / "narrow", {"hook_name": "blocks.1.hook_resid_post"}
    )
    with pytest.raises(ConfigError, match="takes 16 dimensions"):
        extract(extract_config(str(tmp_path / "narrow")), quiet)
    cfg = tmp_path / "narrow" / "cfg.json"
    cfg.write_text(json.dumps(json.loads(cfg.read_text()) | {"metadata": {}}))
    with pytest.raises(ConfigError, match="which hook"):
        extract(extract_config(str(tmp_path / "narrow")), quiet)
