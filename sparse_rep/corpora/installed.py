"""Text that is on every machine with Python: the standard library's sources, the READMEs and headers of installed packages, and
the language reference that `help()` shows."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

from sparse_rep.corpora.text import Document, name_order

NOT_THE_LIBRARY = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
"""Folders of test data and of other people's packages."""
SHORTEST_README = 200
"""Characters; shorter descriptions are a line of advertising."""
HEADER_PACKAGES = ("numpy", "torch")
"""Packages whose C and C++ headers are read, beside Python's own."""
GENERATED = "@generated"
"""Marks, near the top of a file, what a program wrote: thousands of torch's headers differ in one name."""


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


def pydoc_topics(domain: str) -> Iterator[Document]:
    """Python's language reference as `help("if")` and the like show it: prose with grammar and examples."""
    from pydoc_data.topics import topics

    for name in name_order(topics):
        yield Document(topics[name], domain, name)


def c_headers(domain: str) -> Iterator[Document]:
    """The C and C++ headers of Python, and of numpy and torch where installed, each text once and generated ones left out."""
    roots = {"python": Path(sysconfig.get_paths()["include"])}
    for package in HEADER_PACKAGES:
        spec = importlib.util.find_spec(package)
        for folder in spec.submodule_search_locations or () if spec else ():
            roots[package] = Path(folder)
    files = {
        f"{package}/{path.relative_to(root)}": path for package, root in roots.items() for path in root.rglob("*.h")
    }
    seen: set[bytes] = set()
    for name in name_order(files):
        text, replaced = decode(files[name].read_bytes())
        document = Document(text, domain, name, replaced)
        if GENERATED not in document.text[:500] and document.digest() not in seen:
            seen.add(document.digest())
            yield document


def decode(data: bytes) -> tuple[str, int]:
    """UTF-8 text, and how many replacement characters stand for bytes that were not UTF-8."""
    try:
        return data.decode("utf-8-sig"), 0
    except UnicodeDecodeError:
        text = data.decode("utf-8-sig", "replace")
        return text, text.count("\ufffd")


SOURCES: dict[str, Callable[[str], Iterator[Document]]] = {
    "stdlib": stdlib,
    "pip-readmes": pip_readmes,
    "pydoc-topics": pydoc_topics,
    "c-headers": c_headers,
}
"""By the name that follows --text."""
