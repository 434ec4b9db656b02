"""The macros against brute force, on the same codes live and sealed."""

from pathlib import Path

import numpy as np
import pytest
from storekit import DICTIONARY, RUN, Small

from sparse_rep.store import Store


@pytest.fixture(params=["live", "sealed", "sealed without a copy by token"], scope="module")
def stored(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Small:
    small = Small.random(seed=3)
    path: Path = tmp_path_factory.mktemp("macros") / "store"
    small.write(path, sealed=request.param != "live", by_token="without" not in request.param)
    return small


def rows(store: Store, sql: str, **params: object) -> list[tuple]:
    return [tuple(row.values()) for row in store.query(sql, **params).to_pylist()]


@pytest.mark.parametrize("feature", [0, 3, 4, 23, 1000])
@pytest.mark.parametrize("k", [1, 7, 1000])
def test_top_is_the_k_strongest_by_magnitude(stored: Small, feature: int, k: int) -> None:
    acts = stored.acts[:, feature] if feature < 24 else np.zeros(stored.n, np.float32)
    order = sorted(np.flatnonzero(acts).tolist(), key=lambda tok: (-abs(acts[tok]), tok))[:k]
    got = rows(stored.store, "SELECT * FROM top($d, $f, $k)", d=DICTIONARY, f=feature, k=k)
    assert got == [(RUN, "text", tok, acts[tok]) for tok in order]


def test_top_of_an_unknown_dictionary_is_empty(stored: Small) -> None:
    assert rows(stored.store, "SELECT * FROM top('nothing', 0, 5)") == []


@pytest.mark.parametrize("tok", [0, 99, 100, 359, 380])
def test_at_token_lists_what_fires_strongest_first(stored: Small, tok: int) -> None:
    acts = stored.acts[tok] if tok < stored.n else np.zeros(24, np.float32)
    order = sorted(np.flatnonzero(acts).tolist(), key=lambda f: (-abs(acts[f]), f))
    got = rows(stored.store, "SELECT feature, act FROM at_token($d, $t)", d=DICTIONARY, t=tok)
    assert got == [(f, acts[f]) for f in order]


@pytest.mark.parametrize("tok", [0, 1, 57, 200, 399])
def test_context_stays_within_the_document(stored: Small, tok: int) -> None:
    doc = stored.doc_of[tok]
    lo, hi = max(tok - 5, stored.docs["tok_lo"][doc]), min(tok + 3 + 1, stored.docs["tok_hi"][doc])
    got = rows(stored.store, "SELECT tok, \"offset\", token_id FROM context('text', $t, 5, 3)", t=tok)
    assert got == [(t, t - tok, stored.token_ids[t]) for t in range(lo, hi)]


@pytest.mark.parametrize("feature", [0, 4, 23])
def test_coact_counts_shared_tokens(stored: Small, feature: int) -> None:
    on = (stored.acts != 0).astype(np.int64)
    n = on.sum(0)
    both = on.T @ on[:, feature]
    order = sorted((f for f in range(24) if f != feature and both[f]), key=lambda f: (-both[f], f))[:6]
    got = stored.store.query("SELECT * FROM coact($d, $f, 6)", d=DICTIONARY, f=feature).to_pylist()
    assert [(row["other"], row["n"]) for row in got] == [(f, both[f]) for f in order]
    for row in got:
        f = row["other"]
        assert row["p_other_given_feature"] == pytest.approx(both[f] / n[feature])
        if stored.store.manifest(RUN).status == "sealed":
            assert row["jaccard"] == pytest.approx(both[f] / (n[feature] + n[f] - both[f]))
        else:
            assert row["jaccard"] is None
