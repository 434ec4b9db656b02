"""The shuffling buffer: it mixes, forgets nothing, repeats nothing, and resumes where it stopped."""

import io

import pytest
import torch

from sparse_rep.activations import ShuffleBuffer, TensorSource


def stream(rows: int, **kwargs: int) -> ShuffleBuffer:
    x = torch.arange(rows, dtype=torch.float32)[:, None].repeat(1, 3)
    return ShuffleBuffer(TensorSource(x, chunk_rows=50), **({"batch_rows": 20, "buffer_rows": 200, "seed": 0} | kwargs))


def take(buffer: ShuffleBuffer, batches: int) -> torch.Tensor:
    return torch.cat([next(buffer).x[:, 0] for _ in range(batches)])


def test_rows_come_about_equally_often() -> None:
    seen = take(stream(1000), 1000 * 20 // 20).long()  # 20 epochs' worth of rows
    counts = torch.bincount(seen, minlength=1000)
    assert counts.sum() == 20_000
    # A row waits in the buffer for a few refills at most: it can be ahead or behind by the few copies held there.
    assert counts.min() >= 15
    assert counts.max() <= 25


def test_a_batch_mixes_distant_parts_of_the_stream() -> None:
    buffer = stream(10_000, buffer_rows=2_000)
    spreads = [float(next(buffer).x[:, 0].std()) for _ in range(200)]
    # Consecutive rows of a batch of 20 would have a spread of 6; a uniform draw from 2,000 has 577.
    assert min(spreads) > 150


def test_the_same_seed_gives_the_same_stream_and_another_seed_another() -> None:
    assert torch.equal(take(stream(500), 10), take(stream(500), 10))
    assert not torch.equal(take(stream(500), 10), take(stream(500, seed=1), 10))


def test_a_resumed_stream_is_the_interrupted_one_row_for_row() -> None:
    whole = stream(700)
    take(whole, 13)
    saved = io.BytesIO()
    torch.save(whole.state_dict(), saved)
    expected = take(whole, 60)
    resumed = stream(700, seed=99)
    resumed.load_state_dict(torch.load(io.BytesIO(saved.getvalue()), weights_only=True))
    assert torch.equal(take(resumed, 60), expected)


def test_a_corpus_smaller_than_the_buffer_is_passed_over_several_times() -> None:
    buffer = stream(30)
    assert len(take(buffer, 100)) == 2000
    assert buffer.epoch > 5


def test_an_empty_source_is_named() -> None:
    with pytest.raises(ValueError, match="empty"):
        next(ShuffleBuffer(TensorSource(torch.zeros(0, 3)), 2, 4, 0))
