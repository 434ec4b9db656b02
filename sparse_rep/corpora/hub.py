"""Text from Hugging Face data sets, on the hub or in a local directory of the same form."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from sparse_rep.corpora.files import missing_field, text_of
from sparse_rep.corpora.text import Document, text_order
from sparse_rep.errors import ConfigError
from sparse_rep.hosting.locate import hub_answers


@dataclass(frozen=True)
class HubName:
    """`hf:NAME[:split][:config]`; NAME is a hub id or a local directory."""

    name: str
    split: str | None = None
    """None means train, or whatever a directory holds that was saved as a single split."""
    config: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        name, split, config, *rest = [*text.removeprefix("hf:").split(":"), "", ""]
        if not name or any(rest):
            raise ConfigError(f"cannot read {text!r}: write hf:NAME, hf:NAME:split or hf:NAME:split:config")
        return cls(name, split or None, config or None)

    @property
    def domain(self) -> str:
        return self.name.rstrip("/").split("/")[-1]


def hub_documents(hub: HubName, field: str, domain: str) -> Iterator[Document]:
    """A row is a document. Data sets are streamed: little more than what is asked for is downloaded.

    Raises:
        ConfigError: an unknown data set, split or config, or no column `field` (the message lists those there are).
    """
    rows = _load(hub)
    columns = rows.column_names
    if columns is not None and field not in columns:
        raise missing_field(field, columns, f"hf:{hub.name}")
    yield from text_order(
        Document(
            text_of(row, field, list(row), f"hf:{hub.name}, row {number}"), domain, f"{rows.split or 'train'}:{number}"
        )
        for number, row in enumerate(rows)
    )


def _load(hub: HubName) -> Any:
    import datasets
    from huggingface_hub.constants import HF_HUB_OFFLINE

    path = Path(hub.name).expanduser()
    split = hub.split or "train"
    try:
        if (path / "dataset_dict.json").is_file():
            return datasets.load_from_disk(str(path))[split]
        if (path / "state.json").is_file():
            rows: Any = datasets.load_from_disk(str(path))
            if hub.split not in (None, str(rows.split)):
                raise KeyError(f"it was saved as {rows.split}")
            return rows
        streaming = path.exists() or hub_answers()
        if not streaming and not HF_HUB_OFFLINE:
            # datasets itself would try for half a minute.
            raise OSError(
                "there is no such directory here and the Hugging Face Hub cannot be reached; with HF_HUB_OFFLINE=1 what "
                "was downloaded before is used"
            )
        return datasets.load_dataset(str(path), hub.config, split=split, streaming=streaming)
    except (OSError, ValueError, KeyError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigError(f"cannot read the data set {hub.name!r}, split {split!r}: {reason}") from error
