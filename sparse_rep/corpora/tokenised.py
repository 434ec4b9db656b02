"""A corpus: documents as one long row of token ids, written to the store once and shared by every run on it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import numpy as np

from sparse_rep.config import TextConfig
from sparse_rep.corpora.text import Document, TextSource, text_sources
from sparse_rep.corpora.vocabulary import tokenizer_digest, vocabulary
from sparse_rep.corpora.windows import Windows
from sparse_rep.errors import ConfigError
from sparse_rep.progress import Reporter

Split = Literal["train", "heldout"]
ENCODE_CHARACTERS = 200_000
"""Text given to the tokenizer at once: enough to keep its threads busy, little to waste when a corpus is full."""


class CorpusStore(Protocol):
    """The part of the store that corpora need."""

    def has_corpus(self, corpus_id: str, /) -> bool: ...
    def put_corpus(self, corpus_id: str, /, *, token_ids: Any, docs: Any, vocab: Any, meta: Any) -> None: ...
    def corpus_tokens(self, corpus_id: str, /) -> np.ndarray: ...
    def corpus_docs(self, corpus_id: str, /) -> Any: ...
    def corpus_meta(self, corpus_id: str, /) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Corpus:
    """Token ids and the documents they came from."""

    corpus_id: str
    token_ids: np.ndarray
    """(n_tokens,) uint32; the position in it is the `tok` of every table."""
    docs: dict[str, list[Any]]
    """Columns doc, tok_lo, tok_hi, domain, source and split ('train' or 'heldout')."""
    meta: dict[str, Any]

    @classmethod
    def read(cls, store: CorpusStore, corpus_id: str) -> Corpus:
        """A corpus that is in a store already."""
        docs = store.corpus_docs(corpus_id).to_pydict()
        return cls(corpus_id, np.asarray(store.corpus_tokens(corpus_id)), docs, store.corpus_meta(corpus_id))

    @property
    def n_tokens(self) -> int:
        return len(self.token_ids)

    def bounds(self, split: Split | None = None, domain: str | None = None) -> list[tuple[int, int]]:
        """(tok_lo, tok_hi) of each document, or of those of one split or domain."""
        rows = zip(*(self.docs[c] for c in ("tok_lo", "tok_hi", "split", "domain")), strict=True)
        return [(lo, hi) for lo, hi, s, d in rows if split in (None, s) and domain in (None, d)]

    def windows(self, context: int, bos_id: int | None, split: Split | None = None) -> Windows:
        """The windows of every document, or of those of one split."""
        return Windows(self.bounds(split), context, bos_id)


def build_corpus(store: CorpusStore, text: TextConfig, tokenizer: Any, reporter: Reporter | None = None) -> Corpus:
    """Tokenise text and write it to the store, unless the same corpus is there already.

    Texts are tokenised without special tokens, and words that look like one ("<|im_start|>" in a README) are plain text.
    Of each document the first `document_tokens` are kept. With `n_tokens`, sources share it equally, those with less leaving
    theirs to the others, and the last document of each is cut to fit. Cuts fall at a whole character. Documents of the sources
    alternate, so that a prefix is a fair sample.

    A document is held out when sha256 of its text, modulo 10,000, is under `heldout_share`; where that leaves a domain of two
    or more documents without any, the document with the smallest hash is.

    Args:
        tokenizer: a Hugging Face tokenizer.

    Returns:
        The corpus. Its id ends in a hash of token ids, documents and tokenizer: the same text gives the same id, anywhere.

    Raises:
        ConfigError: a source that cannot be read, or text shorter than one context.
    """
    reporter = reporter or Reporter(silent=True)
    domains = [_Domain(source, tokenizer, text.document_tokens) for source in text_sources(text)]
    _fill(domains, text.n_tokens)
    pieces = _alternate(domains)
    n_tokens = sum(len(p.ids) for p in pieces)
    if n_tokens < text.context:
        raise ConfigError(
            f"the text has {n_tokens} tokens, fewer than one context of {text.context}: give more text, or a smaller context"
        )
    corpus = _assemble(pieces, text, tokenizer)
    if not store.has_corpus(corpus.corpus_id):
        store.put_corpus(
            corpus.corpus_id,
            token_ids=corpus.token_ids,
            docs=corpus.docs,
            vocab=vocabulary(tokenizer),
            meta=corpus.meta,
        )
    replaced = corpus.meta["replaced_characters"]
    if replaced:
        reporter.say(f"{replaced:,} characters stand for bytes that were not UTF-8")
    reporter.event("corpus", **corpus.meta)
    return corpus


@dataclass(frozen=True)
class _Piece:
    """A tokenised document, its text let go."""

    domain: str
    source: str
    replaced: int
    digest: bytes
    ids: np.ndarray


class _Domain:
    """One source, tokenised as far as it was asked for."""

    def __init__(self, source: TextSource, tokenizer: Any, document_tokens: int | None) -> None:
        self.name, self._tokenizer, self._document_tokens = source.domain, tokenizer, document_tokens
        self._stream = self._encoded(source.read())
        self.pieces: list[_Piece] = []
        self.have, self.exhausted = 0, False

    def fill(self, wanted: int | None) -> None:
        """Read on until there are `wanted` tokens, or to the end."""
        while not self.exhausted and (wanted is None or self.have < wanted):
            piece = next(self._stream, None)
            if piece is None:
                self.exhausted = True
            else:
                self.pieces.append(piece)
                self.have += len(piece.ids)

    def cut(self, quota: int) -> None:
        """Drop what exceeds the quota: the last document is shortened, at a whole character."""
        excess = self.have - quota
        if excess > 0:
            last = self.pieces.pop()
            ids = self._shortened(last.ids, len(last.ids) - excess)
            if len(ids):
                self.pieces.append(replace(last, ids=ids))
            self.have += len(ids) - len(last.ids)

    def _shortened(self, ids: np.ndarray, length: int) -> np.ndarray:
        """At most `length` tokens, ending at a whole character."""
        if len(ids) <= length:
            return ids
        ids = ids[:length]
        while len(ids) and self._tokenizer.decode(ids[-4:].tolist()).endswith("\ufffd"):
            ids = ids[:-1]
        return ids

    def _encoded(self, documents: Iterator[Document]) -> Iterator[_Piece]:
        batch: list[Document] = []
        size = 0
        for document in documents:
            batch.append(document)
            size += len(document.text)
            if size >= ENCODE_CHARACTERS:
                yield from self._encode(batch)
                batch, size = [], 0
        yield from self._encode(batch)

    def _encode(self, batch: list[Document]) -> Iterator[_Piece]:
        if not batch:
            return
        encoded = self._tokenizer(
            [d.text for d in batch],
            add_special_tokens=False,
            split_special_tokens=True,
            return_attention_mask=False,
            verbose=False,
        )["input_ids"]
        for document, ids in zip(batch, encoded, strict=True):
            kept = np.asarray(ids, np.uint32)
            if self._document_tokens is not None:
                kept = self._shortened(kept, self._document_tokens)
            if len(kept):
                yield _Piece(document.domain, document.source, document.replaced, document.digest(), kept)


def _fill(domains: list[_Domain], n_tokens: int | None) -> None:
    """Equal quotas; what a domain cannot use goes to those that can."""
    if n_tokens is None:
        for domain in domains:
            domain.fill(None)
        return
    hungry, left = domains, n_tokens
    while hungry:
        quota = left // len(hungry)
        for domain in hungry:
            domain.fill(quota)
        poor = [d for d in hungry if d.have < quota]
        if not poor:
            for domain in hungry:
                domain.cut(quota)
            return
        left -= sum(d.have for d in poor)
        hungry = [d for d in hungry if d not in poor]


def _alternate(domains: list[_Domain]) -> list[_Piece]:
    """The documents of all domains, next always from the domain whose share is least used up."""
    queues = [(d, iter(d.pieces)) for d in domains if d.have]
    used = [0.0] * len(queues)
    order: list[_Piece] = []
    while queues:
        at = min(range(len(queues)), key=used.__getitem__)
        domain, pieces = queues[at]
        piece = next(pieces, None)
        if piece is None:
            del queues[at], used[at]
        else:
            order.append(piece)
            used[at] += len(piece.ids) / domain.have
    return order


def _assemble(pieces: list[_Piece], text: TextConfig, tokenizer: Any) -> Corpus:
    ends = np.cumsum([len(p.ids) for p in pieces]).tolist()
    docs: dict[str, list[Any]] = {
        "doc": list(range(len(pieces))),
        "tok_lo": [0, *ends[:-1]],
        "tok_hi": ends,
        "domain": [p.domain for p in pieces],
        "source": [p.source for p in pieces],
        "split": _splits(pieces, text.heldout_share),
    }
    token_ids = np.concatenate([p.ids for p in pieces])
    tokenizer_hash = tokenizer_digest(tokenizer)
    digest = hashlib.sha256(token_ids.tobytes())
    digest.update(repr(list(docs.items())).encode())
    digest.update(tokenizer_hash.encode())
    name = re.sub(r"[^a-z0-9]+", "-", "-".join(dict.fromkeys(docs["domain"])).lower()).strip("-")[:40]
    corpus_id = f"{name or 'text'}-{digest.hexdigest()[:8]}"
    tokens_of = {d: sum(len(p.ids) for p in pieces if p.domain == d) for d in dict.fromkeys(docs["domain"])}
    meta = {
        "corpus_id": corpus_id,
        "sources": list(text.sources),
        "n_tokens": len(token_ids),
        "n_docs": len(pieces),
        "tokens_by_domain": tokens_of,
        "document_tokens": text.document_tokens,
        "heldout_share": text.heldout_share,
        "replaced_characters": sum(p.replaced for p in pieces),
        "tokenizer": tokenizer_hash,
        "sha256": digest.hexdigest(),
    }
    return Corpus(corpus_id, token_ids, docs, meta)


def is_heldout(digest: bytes, heldout_share: float) -> bool:
    """Whether a document of this sha256 is held out, by the rule of `build_corpus` but for its last clause."""
    return int.from_bytes(digest) % 10_000 < heldout_share * 10_000


def _splits(pieces: list[_Piece], heldout_share: float) -> list[Split]:
    heldout = {i for i, p in enumerate(pieces) if is_heldout(p.digest, heldout_share)}
    for domain in {p.domain for p in pieces}:
        members = [i for i, p in enumerate(pieces) if p.domain == domain]
        if heldout_share and len(members) > 1 and heldout.isdisjoint(members):
            heldout.add(min(members, key=lambda i: pieces[i].digest))
    return ["heldout" if i in heldout else "train" for i in range(len(pieces))]
