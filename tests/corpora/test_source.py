"""Activations of a corpus: restartable, filtered as promised, and the same from the cache."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from sparse_rep.activations import ActivationBatch
from sparse_rep.corpora.source import CachedActivations, ModelActivations, captured
from sparse_rep.corpora.tokenised import Corpus
from sparse_rep.errors import ConfigError
from sparse_rep.hosting.huggingface import HuggingFaceModel

HOOK = "blocks.0.hook_resid_post"
TinyModel = Callable[[bool], HuggingFaceModel]


@pytest.fixture
def corpus() -> Corpus:
    rng = np.random.default_rng(0)
    ends = np.cumsum(rng.integers(3, 40, 30)).tolist()
    docs = {
        "doc": list(range(30)),
        "tok_lo": [0, *ends[:-1]],
        "tok_hi": ends,
        "domain": ["d"] * 30,
        "source": [""] * 30,
        "split": ["heldout" if i % 5 == 0 else "train" for i in range(30)],
    }
    return Corpus("random-00000000", rng.integers(2, 300, ends[-1]).astype(np.uint32), docs, {})


def source(model: HuggingFaceModel, corpus: Corpus, **settings: object) -> ModelActivations:
    options = {"context": 16, "tokens_per_chunk": 100, "batch_tokens": 64, **settings}
    return ModelActivations(model, corpus, HOOK, **options)  # type: ignore[arg-type]


def equal(a: list[ActivationBatch], b: list[ActivationBatch]) -> bool:
    return len(a) == len(b) and all(
        torch.equal(p.x, q.x) and p.tok is not None and q.tok is not None and torch.equal(p.tok, q.tok)
        for p, q in zip(a, b, strict=True)
    )


@pytest.mark.parametrize("bos", [False, True])
def test_captured_rows_are_what_the_model_gives_each_window_alone(
    bos: bool, tiny_model: TinyModel, corpus: Corpus
) -> None:
    model = tiny_model(bos)
    windows = corpus.windows(16, model.bos_id)
    rows: dict[int, torch.Tensor] = {}
    for part in captured(model, windows, corpus.token_ids, range(len(windows)), [HOOK], batch_tokens=64):
        rows |= dict(zip(part.tok.tolist(), part.x[HOOK], strict=True))
    assert sorted(rows) == list(range(corpus.n_tokens))
    for lo, hi in zip(windows.lo[:20], windows.hi[:20], strict=True):
        ids = [0] * bos + corpus.token_ids[lo:hi].tolist()
        alone = model.capture(torch.tensor([ids]), None, [HOOK])[HOOK][0, int(bos) :]
        torch.testing.assert_close(torch.stack([rows[t] for t in range(lo, hi)]), alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("bos", "skipped"), [(False, 1), (True, 0)])
def test_the_first_position_is_left_out_and_bos_counts_as_one(
    bos: bool, skipped: int, tiny_model: TinyModel, corpus: Corpus
) -> None:
    model = tiny_model(bos)
    tokens = torch.cat([b.tok for b in source(model, corpus, max_norm_ratio=1e9).chunks()])  # type: ignore[misc]
    windows = corpus.windows(16, model.bos_id, "train")
    expected = [t for lo, hi in zip(windows.lo, windows.hi, strict=True) for t in range(lo + skipped, hi)]
    assert tokens.tolist() == expected


def test_tokens_far_above_the_median_norm_are_left_out_and_counted(tiny_model: TinyModel, corpus: Corpus) -> None:
    model = tiny_model(False)
    model.model.model.embed_tokens.weight[corpus.token_ids[50]] *= 1000
    all_of_it = source(model, corpus, split=None, max_norm_ratio=1e9, skip_positions=0)
    some = source(model, corpus, split=None, skip_positions=0)
    everything = ActivationBatch.concat(list(all_of_it.chunks()))
    rows = {chunk: len(batch) for chunk, batch in enumerate(some.chunks())}
    kept = ActivationBatch.concat(list(some.chunks()))
    small = everything.rows(everything.x.norm(dim=1) <= 10 * some.median_norm)
    assert equal([kept], [small])
    loud = int((corpus.token_ids == corpus.token_ids[50]).sum())
    assert some.left_out_share(rows) == pytest.approx(loud / corpus.n_tokens)
    assert some.describe()["median_norm"] == pytest.approx(float(everything.x[:100].norm(dim=1).median()), rel=0.3)


def test_chunks_are_the_same_from_any_start_and_hold_only_their_split(tiny_model: TinyModel, corpus: Corpus) -> None:
    activations = source(tiny_model(False), corpus)
    chunks = list(activations.chunks())
    assert len(chunks) == activations.n_chunks() > 3
    assert equal(list(activations.chunks(2)), chunks[2:])
    assert sum(activations.tokens(c) for c in range(len(chunks))) == activations.n_tokens()
    heldout = {t for lo, hi in corpus.bounds("heldout") for t in range(lo, hi)}
    assert heldout.isdisjoint(torch.cat([c.tok for c in chunks]).tolist())  # type: ignore[misc]
    all_train = Corpus("c-0", corpus.token_ids, {**corpus.docs, "split": ["train"] * 30}, {})
    with pytest.raises(ConfigError, match="no heldout documents"):
        source(tiny_model(False), all_train, split="heldout")


def test_the_cache_gives_the_same_bits_without_the_model(
    tiny_model: TinyModel, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    activations = source(tiny_model(False), corpus)
    plain = list(activations.chunks())
    cached = CachedActivations(activations, tmp_path)
    assert equal(list(cached.chunks()), plain)
    monkeypatch.setattr(ModelActivations, "chunks", lambda *_: pytest.fail("the model was asked again"))
    again = CachedActivations(activations, tmp_path)
    assert equal(list(again.chunks()), plain)
    assert equal(list(again.chunks(2)), plain[2:])
    next(iter(again.chunks())).x.zero_()
    assert equal(list(again.chunks()), plain)


def test_an_interrupted_pass_goes_on_with_what_is_missing(
    tiny_model: TinyModel, corpus: Corpus, tmp_path: Path
) -> None:
    activations = source(tiny_model(False), corpus)
    plain = list(activations.chunks())
    stream = CachedActivations(activations, tmp_path).chunks()
    next(stream)
    next(stream)
    (folder,) = tmp_path.iterdir()
    (folder / "000000.x.npy").unlink()
    (folder / "000002.tok.npy").write_bytes(b"half a fi")  # as a crash between the two files would leave it
    assert equal(list(CachedActivations(activations, tmp_path).chunks()), plain)
    assert not list(folder.glob(".*"))


def test_sources_that_differ_in_anything_do_not_share_files(
    tiny_model: TinyModel, corpus: Corpus, tmp_path: Path
) -> None:
    model = tiny_model(False)
    for settings in ({}, {"skip_positions": 0}, {"max_norm_ratio": 2.0}, {"context": 8}, {"split": "heldout"}):
        activations = source(model, corpus, **settings)
        assert equal(list(CachedActivations(activations, tmp_path).chunks()), list(activations.chunks()))
    assert len(list(tmp_path.iterdir())) == 5
