"""Page tables against brute force on the dense matrix of a small store."""

from collections import Counter
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from storekit import DICTIONARY, RUN, WORDS, Small, open_run

from sparse_rep.store import Store, seal
from sparse_rep.store.coact import TokenSample
from sparse_rep.store.compact import Chunk
from sparse_rep.store.corpus_view import CONTEXT_BEFORE, Encoded

LATENTS = range(24)
ALIVE = range(20)


def magnitude(small: Small, feature: int) -> np.ndarray:
    return np.abs(small.acts[:, feature]).astype(np.float64)


def context(small: Small, tok: int) -> tuple:
    lo = small.docs["tok_lo"][small.doc_of[tok]]
    return tuple(small.token_ids[max(lo, tok - CONTEXT_BEFORE) : tok + 1])


def strongest(small: Small, feature: int) -> list[int]:
    """Tokens on which a latent fires, strongest first, earlier first among equals."""
    acts = magnitude(small, feature)
    return sorted(np.flatnonzero(acts).tolist(), key=lambda tok: (-acts[tok], tok))


def test_every_latent_has_its_row_of_features_dead_ones_too(small: Small) -> None:
    rows = small.store.query("SELECT * FROM features ORDER BY feature").to_pylist()
    assert [row["feature"] for row in rows] == list(LATENTS)
    energy = float((small.acts.astype(np.float64) ** 2).sum())
    for row in rows:
        acts = magnitude(small, row["feature"])
        (on,) = np.nonzero(acts)
        assert (row["n_active"], row["frac_nonzero"]) == (len(on), pytest.approx(len(on) / small.n))
        assert row["dead"] == (len(on) == 0)
        assert row["n_docs"] == len(set(small.doc_of[on]))
        assert row["energy_share"] == pytest.approx(float((acts**2).sum()) / energy)
        if len(on):
            assert (row["mean_act"], row["max_act"]) == (pytest.approx(acts[on].mean()), acts.max())
            assert (row["tok_first"], row["tok_last"]) == (on[0], on[-1])
        else:
            assert [row[c] for c in ("mean_act", "max_act", "tok_first", "tok_last", "top_tokens")] == [None] * 5


def test_the_density_interval_is_wilsons(tmp_path: Path) -> None:
    """10 of 100: the centre is (0.1 + z²/200) / (1 + z²/100), half the width z √(0.09/100 + z²/40000) / (1 + z²/100)."""
    store = Store(tmp_path / "store", create=True)
    with open_run(store) as run:
        tok = np.arange(10, dtype=np.uint32)
        run.write_shard("a", tok_lo=0, tok_hi=100, codes={"d": (tok * 0, tok, tok.astype(np.float32) + 1)})
        run.finish()
    seal(store, RUN)
    lo, hi = store.query("SELECT frac_lo, frac_hi FROM features").to_pylist()[0].values()
    z2 = 1.959963984540054**2
    centre, half = (0.1 + z2 / 200) / (1 + z2 / 100), sqrt(z2 * (0.0009 + z2 / 40000)) / (1 + z2 / 100)
    assert (lo, hi) == (pytest.approx(centre - half), pytest.approx(centre + half))
    assert (round(lo, 4), round(hi, 4)) == (0.0552, 0.1744)  # as tabulated for 10 of 100


@pytest.mark.parametrize("feature", ALIVE)
def test_histograms_count_each_token_once_in_the_right_bin(small: Small, feature: int) -> None:
    rows = small.rows("feature_hist", feature)
    acts = magnitude(small, feature)
    top = acts.max()
    bins = np.ceil(acts[acts > 0] * 40 / top).astype(int) - 1
    assert [row["n"] for row in rows] == np.bincount(bins, minlength=40).tolist()
    np.testing.assert_allclose([row["hi"] for row in rows], top * np.arange(1, 41) / 40, rtol=1e-6)


def test_dead_latents_have_no_examples(small: Small) -> None:
    for table in (
        "feature_hist",
        "feature_top",
        "feature_sample",
        "feature_tokens",
        "feature_domains",
        "feature_coact",
    ):
        assert small.store.query(f"SELECT count(*) FROM {table} WHERE feature >= 20").column(0).to_pylist() == [0]


@pytest.mark.parametrize("feature", ALIVE)
def test_samples_come_from_their_interval_and_say_what_it_holds(small: Small, feature: int) -> None:
    acts = magnitude(small, feature)
    top = acts.max()
    rows = small.rows("feature_sample", feature)
    for interval in range(10):
        inside = np.flatnonzero((acts > 0) & (np.ceil(acts * 10 / top) == interval + 1))
        mine = [row for row in rows if row["interval"] == interval]
        assert [row["rank"] for row in mine] == list(range(1, 1 + min(5, len(inside))))
        assert len({row["tok"] for row in mine}) == len(mine)
        for row in mine:
            assert row["tok"] in inside
            assert row["act"] == small.acts[row["tok"], feature]
            assert row["n"] == len(inside)
            assert row["share"] == pytest.approx(acts[inside].sum() / acts.sum())


@pytest.mark.parametrize("feature", ALIVE)
def test_top_examples_are_the_strongest_of_each_context(small: Small, feature: int) -> None:
    seen, expected = set(), []
    for tok in strongest(small, feature):
        if context(small, tok) not in seen:
            seen.add(context(small, tok))
            expected.append(tok)
    rows = sorted(small.rows("feature_top", feature), key=lambda row: row["rank"])
    assert [row["tok"] for row in rows] == expected[:20]
    assert [row["act"] for row in rows] == [small.acts[tok, feature] for tok in expected[:20]]


def test_a_repeated_context_is_shown_once_even_when_it_fills_the_hundred_strongest(tmp_path: Path) -> None:
    """One document of 150 equal tokens, on which the latent is strongest, then 5 different ones on which it is weak. Within
    the run of equal tokens the first four differ by how far the document's start is; all later ones are the same context."""
    store = Store(tmp_path / "store", create=True)
    ids = np.array([0] * 150 + [1, 2, 3, 4, 5], np.uint32)
    docs = {"doc": [0], "tok_lo": [0], "tok_hi": [155], "domain": ["x"], "source": ["x"], "split": ["train"]}
    words = list("abcdef")
    vocab = {"token_id": list(range(6)), "piece": words, "text": words}
    store.put_corpus("text", token_ids=ids, docs=docs, vocab=vocab, meta={})
    with open_run(store, corpus_id="text") as run:
        tok = np.arange(155, dtype=np.uint32)
        act = np.where(tok < 150, 8, 1).astype(np.float32)
        run.write_shard("a", tok_lo=0, tok_hi=155, codes={"d": (tok * 0, tok, act)})
        run.finish()
    seal(store, RUN)
    top = store.query("SELECT tok FROM feature_top ORDER BY rank").column(0).to_pylist()
    assert top == [0, 1, 2, 3, 4, 150, 151, 152, 153, 154]


@pytest.mark.parametrize("feature", ALIVE)
def test_token_types_are_counted_with_their_share_and_recall(small: Small, feature: int) -> None:
    acts = magnitude(small, feature)
    on = np.flatnonzero(acts)
    fires, occurs = Counter(small.token_ids[on].tolist()), Counter(small.token_ids[: small.n].tolist())
    expected = sorted(fires, key=lambda token: (-fires[token], token))
    rows = sorted(small.rows("feature_tokens", feature), key=lambda row: row["rank"])
    assert [row["token_id"] for row in rows] == expected
    for row in rows:
        n = fires[row["token_id"]]
        mine = acts[on][small.token_ids[on] == row["token_id"]]
        assert row["n"] == n
        assert (row["share"], row["recall"]) == (pytest.approx(n / len(on)), pytest.approx(n / occurs[row["token_id"]]))
        assert row["mean_act"] == pytest.approx(mine.mean())
    (words,) = small.store.query("SELECT top_tokens FROM features WHERE feature = $f", f=feature).column(0).to_pylist()
    assert words == " · ".join(WORDS[token].replace("\n", "⏎") for token in expected[:5])


@pytest.mark.parametrize("feature", ALIVE)
def test_densities_by_domain_count_encoded_tokens_only(small: Small, feature: int) -> None:
    domains = np.array(small.docs["domain"])[small.doc_of[: small.n]]
    on = small.acts[:, feature] != 0
    expected = {
        d: (int(on[domains == d].sum()), on[domains == d].mean()) for d in set(domains) if on[domains == d].any()
    }
    rows = small.rows("feature_domains", feature)
    assert {row["domain"]: (row["n_active"], pytest.approx(row["frac_nonzero"])) for row in rows} == expected


@pytest.mark.parametrize("feature", ALIVE)
def test_coactivation_is_counted_on_every_token_of_a_small_run(small: Small, feature: int) -> None:
    on = (small.acts != 0).astype(np.int64)
    together, n = on.T @ on, on.sum(0)
    expected: dict[int, dict[str, Any]] = {}
    for other in LATENTS:
        both = int(together[feature, other])
        if other != feature and both > 1:
            expected[other] = {
                "n": both,
                "n_tokens": small.n,
                "p_other_given_feature": both / n[feature],
                "p_feature_given_other": both / n[other],
                "lift": both * small.n / (n[feature] * n[other]),
                "jaccard": both / (n[feature] + n[other] - both),
            }
    rows = small.rows("feature_coact", feature)
    assert {r["other"]: {k: r[k] for k in expected[r["other"]]} for r in rows} == {
        other: pytest.approx(figures) for other, figures in expected.items()
    }
    ranked = [row["jaccard"] for row in sorted(rows, key=lambda row: row["rank"])]
    assert ranked == sorted(ranked, reverse=True)


def test_a_sample_of_tokens_keeps_all_their_codes_and_counts_silent_ones() -> None:
    rng = np.random.default_rng(0)
    on = rng.random((4000, 8)) < 0.05
    tok, counts = [np.flatnonzero(on[:, f]).astype(np.uint32) for f in range(8)], on.sum(0)
    sample = TokenSample(Encoded(((0, 4000),)), wanted=1000)
    sample.add(Chunk(0, counts, np.concatenate(tok), np.ones(int(counts.sum()), np.float32)))
    feature, tok, n_tokens = sample.result()
    assert 850 < n_tokens < 1150
    chosen = np.unique(tok)
    got = np.zeros_like(on)
    got[tok, feature] = True
    np.testing.assert_array_equal(got[chosen], on[chosen])
    assert len(chosen) < n_tokens  # a third of the tokens is silent


def test_a_run_without_a_corpus_is_sealed_with_what_codes_alone_tell(tmp_path: Path) -> None:
    store = Store(tmp_path / "store", create=True)
    with open_run(store) as run:
        codes = np.array([0, 2], np.uint32), np.array([1, 3], np.uint32), np.array([1, 2], np.float32)
        run.write_shard("a", tok_lo=0, tok_hi=4, codes={DICTIONARY: codes})
        run.finish()
    seal(store, RUN)
    rows = store.query("SELECT feature, n_active, n_docs, dead FROM features ORDER BY feature").to_pylist()
    assert [tuple(row.values()) for row in rows] == [(0, 1, None, False), (1, 0, None, True), (2, 1, None, False)]
    assert store.query("SELECT count(*) FROM feature_tokens").column(0).to_pylist() == [0]


def test_small_memory_gives_the_same_pages(tmp_path: Path, small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many chunks of few features, as in a run larger than memory."""
    monkeypatch.setattr("sparse_rep.store.sealing.MAX_CHUNK_ROWS", 1)
    monkeypatch.setattr("sparse_rep.store.compact.ROWS_PER_BUCKET", 100)
    monkeypatch.setattr("sparse_rep.store.coact.PAIRS_AT_ONCE", 500)
    again = Small.random(seed=7).write(tmp_path / "store", sealed=True)
    codes = again.manifest(RUN).sealed
    assert codes is not None
    assert len(codes.codes[DICTIONARY].files) > 3
    for table in (
        "acts",
        "features",
        "feature_top",
        "feature_sample",
        "feature_hist",
        "feature_tokens",
        "feature_coact",
    ):
        both = [s.query(f"SELECT * FROM {table} ORDER BY ALL").to_pylist() for s in (small.store, again)]
        assert both[0] == [pytest.approx(row, abs=1e-12) for row in both[1]]
