"""Windows and batches: every token once, never across documents."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparse_rep.corpora.windows import Windows

lengths = st.lists(st.integers(1, 40), min_size=1, max_size=12)
bos_ids = st.sampled_from([None, 7])


@st.composite
def documents(draw: st.DrawFn) -> list[tuple[int, int]]:
    """Documents with gaps between them, as those of one split have."""
    bounds, at = [], 0
    for length in draw(lengths):
        at += draw(st.integers(0, 5))
        bounds.append((at, at + length))
        at += length
    return bounds


def test_a_small_case_by_hand() -> None:
    windows = Windows([(0, 5), (7, 8), (8, 14)], context=4)
    assert list(zip(windows.lo, windows.hi, strict=True)) == [(0, 4), (4, 5), (7, 8), (8, 12), (12, 14)]
    assert windows.shards(5) == [(0, 5), (7, 12), (12, 14)]
    assert list(windows.within(7, 12)) == [2, 3]
    (first, second) = windows.batches(np.arange(100, 114), windows.within(7, 12), batch_tokens=4)
    assert first.input_ids.tolist() == [[108, 109, 110, 111]]
    assert (second.input_ids.tolist(), second.tok.tolist()) == ([[107]], [7])


def test_bos_takes_a_position_of_the_window_and_none_of_the_result() -> None:
    (batch,) = Windows([(0, 3), (3, 4)], context=4, bos_id=9).batches(np.arange(50, 54), range(2), 100)
    assert batch.input_ids.tolist() == [[9, 50, 51, 52], [9, 53, 9, 9]]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert batch.real.tolist() == [[False, True, True, True], [False, True, False, False]]
    assert (batch.tok.tolist(), batch.position.tolist()) == ([0, 1, 2, 3], [1, 2, 3, 1])


@given(documents(), st.integers(2, 9), st.integers(1, 60), st.integers(1, 30), bos_ids)
def test_every_token_of_every_shard_comes_once_with_its_id_and_place(
    docs: list[tuple[int, int]], context: int, shard_tokens: int, batch_tokens: int, bos_id: int | None
) -> None:
    token_ids = np.random.default_rng(0).integers(10, 1000, docs[-1][1])
    windows = Windows(docs, context, bos_id)
    home = {tok: (lo, hi) for lo, hi in docs for tok in range(lo, hi)}
    seen: list[int] = []
    for shard in windows.shards(shard_tokens):
        for batch in windows.batches(token_ids, windows.within(*shard), batch_tokens):
            assert batch.input_ids.shape[1] <= context
            assert batch.input_ids.shape[0] == 1 or batch.input_ids.numel() <= batch_tokens
            assert batch.input_ids[batch.real].tolist() == token_ids[batch.tok.numpy()].tolist()
            assert (batch.attention_mask.diff(dim=1) <= 0).all()
            assert (batch.attention_mask.sum(1) - int(bos_id is not None) == batch.real.sum(1)).all()
            for row, real in zip(batch.input_ids, batch.real, strict=True):
                assert bos_id is None or (row[0] == bos_id and not real[0])
            assert all(shard[0] <= tok < shard[1] for tok in batch.tok.tolist())
            starts = batch.tok - batch.position + int(bos_id is not None)
            for tok, start in zip(batch.tok.tolist(), starts.tolist(), strict=True):
                assert home[tok] == home[start]
            seen += batch.tok.tolist()
    assert sorted(seen) == sorted(home)
    assert windows.n_tokens == len(home)


@given(documents(), st.integers(2, 9), st.integers(1, 60))
def test_shards_are_full_but_for_the_last(docs: list[tuple[int, int]], context: int, shard_tokens: int) -> None:
    windows = Windows(docs, context)
    held = [sum(windows.hi[w] - windows.lo[w] for w in windows.within(*s)) for s in windows.shards(shard_tokens)]
    assert sum(held) == windows.n_tokens
    assert all(shard_tokens <= n < shard_tokens + context for n in held[:-1])
    assert 0 < held[-1] < shard_tokens + context


def test_no_documents_give_no_windows() -> None:
    windows = Windows([], context=8)
    assert (len(windows), windows.shards(10), windows.n_tokens) == (0, [], 0)
    assert list(windows.batches(np.empty(0), range(0), 8)) == []


def test_a_large_corpus_is_cut_evenly() -> None:
    bounds = np.arange(20_001) * 1000
    windows = Windows(np.stack([bounds[:-1], bounds[1:]], 1), context=256)
    assert len(windows) == 4 * 20_000
    assert len(windows.shards(16_384)) == pytest.approx(20_000_000 / 16_384, rel=0.05)
