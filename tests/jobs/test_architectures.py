"""Every architecture from a config to codes in the store, on the tiny model."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from sparse_rep.config import ExtractConfig, TrainConfig
from sparse_rep.config_dictionary import ARCHITECTURES
from sparse_rep.errors import ConfigError
from sparse_rep.jobs.extract import extract
from sparse_rep.jobs.training import train_dictionary
from sparse_rep.progress import Reporter
from sparse_rep.saes.formats.stored import load_dictionary
from sparse_rep.store import Store

SETTINGS: dict[str, dict[str, Any]] = {
    "topk": {"k": 4},
    "batchtopk": {"k": 4},
    "matryoshka": {"k": 4, "prefix_shares": [0.25, 0.5, 1]},
    "standard": {"penalty": 1, "penalty_warmup_tokens": 1000},
    "jumprelu": {"penalty": 0.1, "penalty_warmup_tokens": 1000},
    "gated": {"penalty": 1, "penalty_warmup_tokens": 1000},
    "mp": {"k": 4},
}
TARGET = "blocks.2.hook_mlp_out"


def dictionary(kind: str, **changes: Any) -> dict[str, Any]:
    return {"kind": kind, "n_latents": 64, "dead_after_tokens": 2000, **SETTINGS[kind], **changes}


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_what_was_trained_is_extracted_into_the_store(
    kind: str,
    train_config: Callable[..., TrainConfig],
    extract_config: Callable[..., ExtractConfig],
    quiet: Reporter,
) -> None:
    trained = train_dictionary(train_config(dictionary=dictionary(kind)), quiet)
    assert 0 < trained["explained_variance"] <= 1
    run = extract(extract_config(trained["dictionary_id"]), quiet)
    store = Store(train_config().store)
    rows = store.query(
        "SELECT count(*) AS n, count(DISTINCT (feature, tok)) AS d FROM acts WHERE run_id = $r", r=run["run_id"]
    )
    n, distinct = rows["n"][0].as_py(), rows["d"][0].as_py()
    assert n == distinct > 0
    # Extraction takes every token, held out or not and first positions too, so L0 need not be quite the same.
    assert n / run["n_tokens"] == pytest.approx(trained["l0_all_tokens"], rel=0.25)
    known = store.query("SELECT kind, d_in, n_latents FROM dictionaries").to_pylist()
    assert known == [{"kind": kind, "d_in": 32, "n_latents": 64}]
    # What the store holds is what the saved dictionary says of the very activations.
    coder = load_dictionary(store.dictionary_path(trained["dictionary_id"]))
    sample = store.query("SELECT tok, x FROM activations WHERE run_id = $r ORDER BY tok", r=run["run_id"])
    x = torch.tensor(sample["x"].to_pylist())
    found = {(f, t): a for f, t, a in zip(*(rows_of(store, run["run_id"])), strict=True)}
    codes = coder.encode(x).to_csr()
    toks = sample["tok"].to_pylist()
    ours = {
        (f, toks[r]): a
        for r, f, a in zip(codes.rows().tolist(), codes.indices.tolist(), codes.values.tolist(), strict=True)
    }
    shared = ours.keys() & {key for key in found if key[1] in set(toks)}
    assert len(shared) > 0.97 * len(ours)  # activations are kept in 16 bits: a near tie may go the other way
    assert all(ours[key] == pytest.approx(found[key], rel=0.02, abs=0.02) for key in shared)


def rows_of(store: Store, run_id: str) -> tuple[list[Any], list[Any], list[Any]]:
    rows = store.query("SELECT feature, tok, act FROM acts WHERE run_id = $r", r=run_id)
    return rows["feature"].to_pylist(), rows["tok"].to_pylist(), rows["act"].to_pylist()


@pytest.mark.parametrize(("kind", "skip"), [("topk", False), ("topk", True), ("standard", True), ("jumprelu", False)])
def test_a_transcoder_predicts_the_other_hook_and_is_extracted(
    kind: str,
    skip: bool,
    train_config: Callable[..., TrainConfig],
    extract_config: Callable[..., ExtractConfig],
    quiet: Reporter,
) -> None:
    config = train_config(dictionary=dictionary(kind, skip=skip), target_hook=TARGET)
    trained = train_dictionary(config, quiet)
    assert 0.1 < trained["explained_variance"] <= 1
    assert "ce_recovered" in trained
    run = extract(extract_config(trained["dictionary_id"]), quiet)
    assert run["n_rows"] > 0
    coder = load_dictionary(Store(config.store).dictionary_path(trained["dictionary_id"]))
    assert coder.describe()["d_out"] == 32


def test_pursuit_is_extracted_with_as_many_steps_as_asked_for(
    train_config: Callable[..., TrainConfig], extract_config: Callable[..., ExtractConfig], quiet: Reporter
) -> None:
    trained = train_dictionary(train_config(dictionary=dictionary("mp")), quiet)
    few, many, easy = (
        extract(extract_config(trained["dictionary_id"], name=name, **changes), quiet)["n_rows"]
        for name, changes in (("few", {"steps": 1}), ("many", {"steps": 12}), ("easy", {"steps": 12, "tolerance": 0.6}))
    )
    assert few < easy < many


def test_pursuit_steps_asked_of_other_dictionaries_are_refused(
    trained: dict[str, Any], extract_config: Callable[..., ExtractConfig], quiet: Reporter
) -> None:
    with pytest.raises(ConfigError, match="leave them out"):
        extract(extract_config(trained["dictionary_id"], steps=3), quiet)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"dictionary": dictionary("mp"), "target_hook": TARGET}, "cannot predict target_hook"),
        ({"dictionary": dictionary("topk", skip=True)}, "give target_hook"),
        ({"target_hook": "blocks.0.hook_resid_post"}, "does not come after"),
        ({"target_hook": "blocks.2.hook_mlp_uot"}, "blocks.2.hook_mlp_out"),
        ({"dictionary": dictionary("standard", k=3)}, "no such setting"),
        ({"dictionary": dictionary("matryoshka") | {"prefix_shares": [0.5, 0.25, 1]}}, "must rise"),
    ],
)
def test_settings_that_contradict_each_other_are_one_sentence(
    train_config: Callable[..., TrainConfig], quiet: Reporter, changes: dict[str, Any], named: str
) -> None:
    with pytest.raises(ConfigError, match=named) as caught:
        train_dictionary(train_config(**changes), quiet)
    assert "\n" not in str(caught.value)
