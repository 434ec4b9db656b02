"""Text from Hugging Face data sets, on the hub or in a local directory of the same form."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from sparse_rep.corpora.files import missing_field, text_of
from sparse_rep.corpora.text import Document
from sparse_rep.errors import ConfigError


@dataclass(frozen=True)
class HubName:
    """`hf:NAME[:split][:config]`; NAME is a hub id or a local directory."""

    name: str
    split: str = "train"
    config: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        name, split, config, *rest = [*text.removeprefix("hf:").split(":"), "", ""]
        if not name or any(rest):
            raise ConfigError(f"cannot read {text!r}: write hf:NAME, hf:NAME:split or hf:NAME:split:config")
        return cls(name, split or "train", config or None)

    @property
    def domain(self) -> str:
        return self.name.rstrip("/").split("/")[-1]


def hub_documents(hub: HubName, field: str, domain: str) -> Iterator[Document]:
    """A row is a document. Data sets are streamed: only what is asked for is downloaded.

    Raises:
        ConfigError: an unknown data set, split or config, or no column `field` (the message lists those there are).
    """
    rows = _load(hub)
    columns = rows.column_names
    if columns is not None and field not in columns:
        raise missing_field(field, columns, f"hf:{hub.name}")
    for number, row in enumerate(rows):
        yield Document(text_of(row, field, list(row), f"hf:{hub.name}, row {number}"), domain, f"{hub.split}:{number}")


def _load(hub: HubName) -> Any:
    import datasets

    path = Path(hub.name).expanduser()
    try:
        if (path / "dataset_dict.json").is_file():
            return datasets.load_from_disk(str(path))[hub.split]
        if (path / "state.json").is_file():
            return datasets.load_from_disk(str(path))
        return datasets.load_dataset(str(path), hub.config, split=hub.split, streaming=True)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConfigError(f"cannot read the data set {hub.name!r}, split {hub.split!r}: {reason}") from error
