"""Where text comes from: `documents` reads any source as a stream of documents in a fixed, mixed order."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from sparse_rep.config import TextConfig
from sparse_rep.errors import ConfigError

SHUFFLE_BLOCK = 1000
"""Rows of a stream, which may be too long to sort, are put in hash order this many at a time."""


@dataclass(frozen=True)
class Document:
    """One text and where it is from."""

    text: str
    domain: str
    """Which of the sources, by a short name."""
    source: str
    """Where within it: a relative path, a package, a row."""
    replaced: int = 0
    """Characters put in place of bytes that were not UTF-8."""

    def digest(self) -> bytes:
        """sha256 of the text: decides order and split, so that neither depends on where the text was found."""
        return hashlib.sha256(self.text.encode("utf-8", "surrogatepass")).digest()


@dataclass(frozen=True)
class TextSource:
    """One of the sources of a `TextConfig`; `read` starts it from its beginning."""

    domain: str
    read: Callable[[], Iterator[Document]]


def text_sources(config: TextConfig) -> list[TextSource]:
    """The sources of a configuration, each with its own domain name, nothing read yet.

    Raises ConfigError for a path that is not there; what is wrong inside a source is found when it is read.
    """
    sources = [_source(name, config.field) for name in config.sources]
    if not sources:
        raise ConfigError("no text: name at least one source, e.g. --text stdlib")
    domains = [s.domain for s in sources]
    for domain in domains:
        if domains.count(domain) > 1:
            raise ConfigError(
                f"two sources of text are both called {domain!r}: rename one, or give their common folder"
            )
    return sources


def documents(config: TextConfig) -> Iterator[Document]:
    """Every document of every source that is not blank, one source after the other.

    Within a source the order is by hash (of names for files and packages, of texts for rows), so that a prefix is a fair
    sample and the same everywhere.
    """
    for source in text_sources(config):
        yield from source.read()


def _source(name: str, field: str) -> TextSource:
    # Readers import pyarrow, datasets and the like; a source that is not named costs nothing.
    from sparse_rep.corpora import files, installed

    if name in installed.SOURCES:
        return _no_blanks(name, installed.SOURCES[name])
    if name.startswith("hf:"):
        from sparse_rep.corpora.hub import HubName, hub_documents

        hub = HubName.parse(name)
        return _no_blanks(hub.domain, lambda domain: hub_documents(hub, field, domain))
    path = Path(name).expanduser()
    if not path.exists():
        raise ConfigError(
            f"no text at {name}: give {', '.join(installed.SOURCES)}, hf:NAME, or a path that exists "
            f"({', '.join(files.SUFFIXES)}, or a directory of them)"
        )
    return _no_blanks(path.resolve().name.split(".")[0], lambda domain: files.read_path(path, field, domain))


def _no_blanks(domain: str, read: Callable[[str], Iterable[Document]]) -> TextSource:
    return TextSource(domain, lambda: (d for d in read(domain) if d.text.strip()))


def name_order(names: Iterable[str]) -> list[str]:
    """Names in the order of their hashes: neighbours in the alphabet are about the same things, prefixes should not be."""
    return sorted(names, key=lambda name: hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest())


def text_order(rows: Iterable[Document]) -> Iterator[Document]:
    """Rows in the order of their texts' hashes, a block at a time."""
    rows = iter(rows)
    while block := list(islice(rows, SHUFFLE_BLOCK)):
        yield from sorted(block, key=Document.digest)
