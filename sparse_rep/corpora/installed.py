"""Text that is on every machine with Python: the standard library's sources and the READMEs of installed packages."""

from __future__ import annotations

import importlib.metadata
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from sparse_rep.corpora.text import Document, name_order

NOT_THE_LIBRARY = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
"""Folders of test data and of other people's packages."""
SHORTEST_README = 200
"""Characters; shorter descriptions are a line of advertising."""


def stdlib(domain: str) -> Iterator[Document]:
    """The running interpreter's own .py files, without tests."""
    root = Path(sysconfig.get_paths()["stdlib"])
    inside = (path.relative_to(root) for path in root.rglob("*.py"))
    for name in name_order(str(path) for path in inside if NOT_THE_LIBRARY.isdisjoint(path.parts[:-1])):
        text, replaced = decode((root / name).read_bytes())
        yield Document(text, domain, name, replaced)


def pip_readmes(domain: str) -> Iterator[Document]:
    """The long descriptions in the METADATA of the installed packages, each text once."""
    seen: set[bytes] = set()
    packages = {d.metadata["Name"]: d for d in importlib.metadata.distributions() if d.metadata["Name"]}
    for name in name_order(packages):
        metadata = packages[name].metadata
        # Not .get: the protocol of PackageMetadata has none.
        document = Document(metadata["Description"] if "Description" in metadata else "", domain, name)  # noqa: SIM401
        if len(document.text) >= SHORTEST_README and document.digest() not in seen:
            seen.add(document.digest())
            yield document


def decode(data: bytes) -> tuple[str, int]:
    """UTF-8 text, and how many replacement characters stand for bytes that were not UTF-8."""
    try:
        return data.decode("utf-8-sig"), 0
    except UnicodeDecodeError:
        text = data.decode("utf-8-sig", "replace")
        return text, text.count("\ufffd")
