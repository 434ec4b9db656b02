"""What a toy reads: a tokenizer learned from the text, and the text in its tokens, kept in one folder that can be carried."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sparse_rep.config import TextConfig
from sparse_rep.corpora.text import documents
from sparse_rep.corpora.tokenised import Corpus, Split, build_corpus, is_heldout
from sparse_rep.errors import ConfigError
from sparse_rep.hosting.quiet import quiet_transformers
from sparse_rep.progress import Reporter
from sparse_rep.store import Store
from sparse_rep.toys.config import ToyMoeConfig

END_OF_TEXT = "<|endoftext|>"
END_ID = 0
SAID_TWICE = {("stdlib", "pydoc_data/topics.py")}
"""(domain, source) of documents whose text is another domain's too, and so would be read before it is scored."""


@dataclass(frozen=True)
class ToyText:
    """A tokenised text with its tokenizer."""

    corpus: Corpus
    tokenizer: Any

    def documents(self, split: Split) -> dict[str, list[tuple[int, int]]]:
        """By domain: (tok_lo, tok_hi) of each document of a split."""
        columns = (self.corpus.docs[c] for c in ("domain", "source", "split", "tok_lo", "tok_hi"))
        found: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for domain, source, where, lo, hi in zip(*columns, strict=True):
            if where == split and (domain, source) not in SAID_TWICE:
                found[domain].append((lo, hi))
        return dict(found)

    def stream(self, domain: str) -> np.ndarray:
        """The training documents of a domain in one row, each followed by the end of text."""
        pieces = [np.append(self.corpus.token_ids[lo:hi], END_ID) for lo, hi in self.documents("train")[domain]]
        return np.concatenate(pieces).astype(np.int64)


def toy_text(folder: Path, config: ToyMoeConfig, reporter: Reporter) -> ToyText:
    """Read the text kept in `folder`, or make it: learn the tokenizer, tokenise, keep both.

    The folder is a store with one corpus, and beside it the tokenizer and a note of the settings that made it. It can be
    carried to a machine that has other text, or none.

    Raises ConfigError where the folder holds the text of other settings.
    """
    from transformers import AutoTokenizer

    note = folder / "text.json"
    settings = {
        "text": config.text.model_dump(mode="json"),
        "vocab_size": config.vocab_size,
        "tokenizer_characters": config.tokenizer_characters,
    }
    if not note.exists():
        corpus_id = _make(folder, config, reporter)
        note.write_text(json.dumps({"corpus_id": corpus_id, **settings}, indent=2))
    kept = json.loads(note.read_text())
    if {name: kept[name] for name in settings} != settings:
        raise ConfigError(f"{folder} holds text made by other settings: remove it, or give another --out")
    corpus = Corpus.read(Store(folder), kept["corpus_id"])
    return ToyText(corpus, AutoTokenizer.from_pretrained(folder / "tokenizer"))


def _make(folder: Path, config: ToyMoeConfig, reporter: Reporter) -> str:
    reporter.say(f"reading {', '.join(config.text.sources)}")
    tokenizer = learn_tokenizer(_sample(config.text, config.tokenizer_characters), config.vocab_size)
    corpus = build_corpus(Store(folder, create=True), config.text, tokenizer, reporter)
    with quiet_transformers():
        tokenizer.save_pretrained(folder / "tokenizer")
    reporter.say(f"{corpus.n_tokens:,} tokens in {len(corpus.docs['doc']):,} documents")
    return corpus.corpus_id


def _sample(text: TextConfig, characters: int) -> Iterator[str]:
    """Training documents of each domain, up to so many characters."""
    taken: dict[str, int] = defaultdict(int)
    for document in documents(text):
        if taken[document.domain] < characters and not is_heldout(document.digest(), text.heldout_share):
            taken[document.domain] += len(document.text)
            yield document.text[:characters]


def learn_tokenizer(texts: Iterable[str], vocab_size: int) -> Any:
    """A byte-level BPE tokenizer (GPT-2's form) in transformers' wrapping: any text comes back as it was, none is unknown."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=END_OF_TEXT, clean_up_tokenization_spaces=False)
