"""Corpora: the same text gives the same corpus, shared fairly and split by content."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from sparse_rep.config import TextConfig
from sparse_rep.corpora.tokenised import Corpus, build_corpus
from sparse_rep.errors import ConfigError
from sparse_rep.progress import Reporter
from sparse_rep.store import Store


def write(path: Path, texts: list[str]) -> str:
    path.write_text("\n".join(json.dumps({"text": t}) for t in texts))
    return str(path)


def config(*sources: str, **settings: Any) -> TextConfig:
    return TextConfig(sources=sources, **{"context": 4, **settings})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store", create=True)


@pytest.fixture
def foxes(tmp_path: Path) -> str:
    return write(tmp_path / "foxes.jsonl", [f"the quick brown fox number {i} " * 4 for i in range(40)])


def test_a_corpus_spells_its_documents_and_reads_back_from_the_store(
    store: Store, foxes: str, tokenizer: PreTrainedTokenizerFast
) -> None:
    corpus = build_corpus(store, config(foxes), tokenizer)
    assert corpus.n_tokens == len(corpus.token_ids) == corpus.docs["tok_hi"][-1]
    for lo, hi, source in zip(*(corpus.docs[c] for c in ("tok_lo", "tok_hi", "source")), strict=True):
        number = int(source.split(":")[1]) - 1
        assert tokenizer.decode(corpus.token_ids[lo:hi].tolist()) == f"the quick brown fox number {number} " * 4
    again = Corpus.read(store, corpus.corpus_id)
    assert np.array_equal(again.token_ids, corpus.token_ids)
    assert {c: again.docs[c] for c in corpus.docs} == corpus.docs
    assert again.meta["n_tokens"] == corpus.n_tokens


def test_the_same_text_is_the_same_corpus_wherever_it_lies(
    store: Store, foxes: str, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    first = build_corpus(store, config(foxes), tokenizer)
    assert build_corpus(store, config(foxes), tokenizer).corpus_id == first.corpus_id
    (tmp_path / "elsewhere").mkdir()
    moved = Path(foxes).rename(tmp_path / "elsewhere" / "foxes.jsonl")
    assert build_corpus(store, config(str(moved)), tokenizer).corpus_id == first.corpus_id
    assert first.corpus_id.startswith("foxes-")
    others = [
        config(str(moved), heldout_share=0.5),
        config(str(moved), n_tokens=100),
    ]
    assert len({first.corpus_id, *(build_corpus(store, c, tokenizer).corpus_id for c in others)}) == 3


def test_tokens_are_shared_equally_and_what_one_lacks_goes_to_the_others(
    store: Store, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    large = [write(tmp_path / f"large{i}.jsonl", [f"fox {i} {n} " * 9 for n in range(60)]) for i in (0, 1)]
    small = write(tmp_path / "small.jsonl", ["the dog " * 10])
    corpus = build_corpus(store, config(*large, small, n_tokens=900), tokenizer)
    shares = corpus.meta["tokens_by_domain"]
    alone = build_corpus(store, config(small), tokenizer).n_tokens
    assert alone < 300
    assert shares == {"large0": (900 - alone) // 2, "large1": (900 - alone) // 2, "small": alone}
    # A prefix is as mixed as the whole.
    half = [d for d, hi in zip(corpus.docs["domain"], corpus.docs["tok_hi"], strict=True) if hi <= 450]
    assert abs(half.count("large0") - half.count("large1")) <= 1


def test_a_corpus_takes_no_more_text_than_it_needs(store: Store, tmp_path: Path, tokenizer: Any) -> None:
    path = write(tmp_path / "long.jsonl", ["the quick brown fox " * 500] * 200)
    asked: list[int] = []

    class Counting:
        def __call__(self, texts: list[str], **options: Any) -> Any:
            asked.append(len(texts))
            return tokenizer(texts, **options)

        def __getattr__(self, name: str) -> Any:
            return getattr(tokenizer, name)

        def __len__(self) -> int:
            return len(tokenizer)

    assert build_corpus(store, config(path, n_tokens=1000), Counting()).n_tokens == 1000
    assert sum(asked) <= 21


def test_a_cut_never_leaves_half_a_character(store: Store, tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    path = write(tmp_path / "emoji.jsonl", ["🦊🦊🦊🦊"])  # four tokens each: none of their bytes were merged
    for n_tokens, kept in ((15, 3), (13, 3), (12, 3), (8, 2)):
        corpus = build_corpus(store, config(path, n_tokens=n_tokens), tokenizer)
        assert tokenizer.decode(corpus.token_ids.tolist()) == "🦊" * kept


def test_words_that_look_like_special_tokens_are_text(
    store: Store, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    path = write(tmp_path / "chat.jsonl", ["<s> is how it begins </s>"])
    corpus = build_corpus(store, config(path), tokenizer)
    assert tokenizer.decode(corpus.token_ids.tolist()) == "<s> is how it begins </s>"
    assert not {0, 1} & set(corpus.token_ids.tolist())


def test_the_split_follows_the_text_and_not_its_neighbours(
    store: Store, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    texts = [f"document {i} about foxes" for i in range(300)]
    whole = build_corpus(store, config(write(tmp_path / "a.jsonl", texts), heldout_share=0.2), tokenizer)
    part = build_corpus(store, config(write(tmp_path / "b.jsonl", texts[:150][::-1]), heldout_share=0.2), tokenizer)

    def split_of(corpus: Corpus) -> dict[str, str]:
        bounds = zip(corpus.docs["tok_lo"], corpus.docs["tok_hi"], corpus.docs["split"], strict=True)
        return {str(tokenizer.decode(corpus.token_ids[lo:hi].tolist())): split for lo, hi, split in bounds}

    assert split_of(part).items() <= split_of(whole).items()
    assert 40 <= whole.docs["split"].count("heldout") <= 80
    train, heldout = whole.windows(4, None, "train"), whole.windows(4, None, "heldout")
    assert train.n_tokens + heldout.n_tokens == whole.n_tokens


def test_every_domain_of_two_documents_holds_one_out_unless_none_is_wanted(
    store: Store, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    paths = [write(tmp_path / f"d{i}.jsonl", [f"one {i} fox", f"two {i} dogs"]) for i in range(8)]
    docs = build_corpus(store, config(*paths, heldout_share=0.001), tokenizer).docs
    for domain in set(docs["domain"]):
        splits = [s for s, d in zip(docs["split"], docs["domain"], strict=True) if d == domain]
        assert sorted(splits) == ["heldout", "train"]
    docs = build_corpus(store, config(*paths, heldout_share=0.0), tokenizer).docs
    assert set(docs["split"]) == {"train"}


def test_text_shorter_than_a_context_is_refused_with_both_numbers(
    store: Store, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    path = tmp_path / "short.txt"
    path.write_text("the dog")
    n = len(tokenizer("the dog", add_special_tokens=False)["input_ids"])
    with pytest.raises(ConfigError, match=rf"has {n} tokens, fewer than one context of 64"):
        build_corpus(store, config(str(path), context=64), tokenizer)
    path.write_text("  ")
    with pytest.raises(ConfigError, match="has 0 tokens"):
        build_corpus(store, config(str(path), context=64), tokenizer)


def test_replaced_bytes_are_counted_and_events_told(
    store: Store, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    path = tmp_path / "latin.txt"
    path.write_bytes(b"caf\xe9 and na\xefve foxes")
    events: list[dict[str, Any]] = []
    reporter = Reporter(silent=True)
    reporter.sinks.append(events.append)
    corpus = build_corpus(store, config(str(path)), tokenizer, reporter)
    assert corpus.meta["replaced_characters"] == 2
    assert events[-1]["corpus_id"] == corpus.corpus_id


def test_of_long_documents_only_the_start_is_kept(store: Store, foxes: str, tokenizer: PreTrainedTokenizerFast) -> None:
    whole = build_corpus(store, config(foxes), tokenizer)
    short = build_corpus(store, config(foxes, document_tokens=5), tokenizer)
    assert len(short.docs["doc"]) == len(whole.docs["doc"])
    for lo, hi, whole_lo in zip(short.docs["tok_lo"], short.docs["tok_hi"], whole.docs["tok_lo"], strict=True):
        assert hi - lo == 5
        assert np.array_equal(short.token_ids[lo:hi], whole.token_ids[whole_lo : whole_lo + 5])
    assert short.docs["split"] == whole.docs["split"]
