"""The schema, read from `sql/schema.sql`: the one place where tables, columns, types and their meaning are written."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from importlib import resources

import pyarrow as pa

SCHEMA_VERSION = 1
"""Of the layout on disk. A store of a newer version is refused rather than misread."""

ARROW = {
    "VARCHAR": pa.string(),
    "JSON": pa.string(),
    "BOOLEAN": pa.bool_(),
    "TINYINT": pa.int8(),
    "UTINYINT": pa.uint8(),
    "USMALLINT": pa.uint16(),
    "UINTEGER": pa.uint32(),
    "UBIGINT": pa.uint64(),
    "FLOAT": pa.float32(),
    "DOUBLE": pa.float64(),
    "FLOAT[]": pa.list_(pa.float32()),
    "TIMESTAMP": pa.timestamp("us"),
}


PAGE_TABLES = (
    "features",
    "feature_top",
    "feature_sample",
    "feature_hist",
    "feature_tokens",
    "feature_domains",
    "feature_coact",
    "feature_logits",
    "feature_neighbors",
)
"""Tables of the sealed index. Until a run is sealed, what its job wrote itself under tables/ shows."""


@dataclass(frozen=True)
class Column:
    name: str
    type: str
    note: str

    @property
    def sql(self) -> str:
        """The name as SQL text."""
        return f'"{self.name}"'

    @property
    def arrow(self) -> pa.DataType:
        return ARROW[self.type]


@dataclass(frozen=True)
class Table:
    name: str
    note: str
    columns: tuple[Column, ...]

    def __getitem__(self, column: str) -> Column:
        return next(c for c in self.columns if c.name == column)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(c.name for c in self.columns)

    @property
    def empty(self) -> str:
        """A query with these columns and no rows."""
        return f"SELECT {', '.join(f'NULL::{c.type} AS {c.sql}' for c in self.columns)} WHERE false"


def sql_text(name: str) -> str:
    """A file of `store/sql/`."""
    return (resources.files("sparse_rep.store.sql") / name).read_text(encoding="utf-8")


@functools.cache
def tables() -> dict[str, Table]:
    """Every table of the schema by name, in the order of the file."""
    text = sql_text("schema.sql")
    found = re.finditer(r"((?:^--[^\n]*\n)*)^CREATE TABLE (\w+) \(\n(.*?)^\);", text, re.MULTILINE | re.DOTALL)
    parsed = (
        Table(name, _prose(comment), tuple(_columns(body))) for comment, name, body in (m.groups() for m in found)
    )
    return {table.name: table for table in parsed}


def _prose(comment: str) -> str:
    return " ".join(line.lstrip("- ").strip() for line in comment.splitlines()).strip()


def _columns(body: str) -> list[Column]:
    columns = []
    for line in body.splitlines():
        code, _, note = line.partition("--")
        for name, kind in re.findall(r'"?(\w+)"?\s+([A-Z]+(?:\[\])?)(?=\s*(?:,|$))', code):
            columns.append(Column(name, kind, note.strip()))
    return columns
