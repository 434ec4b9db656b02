"""Text from files: plain text, JSON lines, Parquet, and directories of them."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sparse_rep.corpora.installed import decode
from sparse_rep.corpora.text import Document, name_order, text_order
from sparse_rep.errors import ConfigError

PLAIN = (".txt", ".md", ".rst", ".py")
JSON_LINES = (".jsonl", ".jsonl.gz")
SUFFIXES = (*PLAIN, *JSON_LINES, ".parquet")


def read_path(path: Path, field: str, domain: str) -> Iterator[Document]:
    """Documents of a file, or of every readable file under a directory.

    A plain file is one document; a row of JSON lines or Parquet is one.

    Raises:
        ConfigError: nothing readable there, a row that is not JSON, or no column `field` (the message lists those there are).
    """
    root, names = (path, _readable(path)) if path.is_dir() else (path.parent, [path.name])
    if not names or not names[0].endswith(SUFFIXES):
        raise ConfigError(f"{path} holds no text that can be read: none of {', '.join(SUFFIXES)}")
    for name in name_order(names):
        file = root / name
        if name.endswith(PLAIN):
            text, replaced = decode(file.read_bytes())
            yield Document(text, domain, name, replaced)
        else:
            rows = _json_lines if name.endswith(JSON_LINES) else _parquet
            yield from text_order(rows(file, name, field, domain))


def _readable(folder: Path) -> list[str]:
    return [str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file() and f.name.endswith(SUFFIXES)]


def _json_lines(file: Path, source: str, field: str, domain: str) -> Iterator[Document]:
    with gzip.open(file) if file.name.endswith(".gz") else file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            text, replaced = decode(line)
            try:
                row = json.loads(text)
            except json.JSONDecodeError as error:
                raise ConfigError(f"{file}, line {number}: not JSON ({error.msg})") from error
            columns = list(row) if isinstance(row, dict) else []
            yield Document(
                text_of(row, field, columns, f"{file}, line {number}"), domain, f"{source}:{number}", replaced
            )


def _parquet(file: Path, source: str, field: str, domain: str) -> Iterator[Document]:
    import pyarrow.parquet as pq

    table = pq.ParquetFile(file)
    columns = table.schema_arrow.names
    if field not in columns:
        raise missing_field(field, columns, str(file))
    number = 0
    for batch in table.iter_batches(batch_size=1024, columns=[field]):
        for text in batch.column(0).to_pylist():
            number += 1
            yield Document(
                text_of({field: text}, field, columns, f"{file}, row {number}"), domain, f"{source}:{number}"
            )


def text_of(row: Any, field: str, columns: list[str], where: str) -> str:
    """The text of a row; an empty one where it is null. Raises ConfigError where there is none or it is not text."""
    if field not in columns:
        raise missing_field(field, columns, where)
    text = row[field]
    if not isinstance(text, str | None):
        raise ConfigError(f"{where}: the column {field!r} holds {type(text).__name__}, not text")
    return text or ""


def missing_field(field: str, columns: list[str], where: str) -> ConfigError:
    return ConfigError(
        f"{where}: no column {field!r}; there are {', '.join(columns) or 'none'} (choose with --set text.field=NAME)"
    )
