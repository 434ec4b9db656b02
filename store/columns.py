"""Columns given by callers, made to fit the schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from sparse_rep.errors import DataError
from sparse_rep.store.schema import tables

FILLED_BY_VIEWS = ("run_id",)
"""Never stored: a view knows which run it reads."""


def fit(name: str, columns: Mapping[str, Any] | pa.Table, fixed: Mapping[str, Any] | None = None) -> pa.Table:
    """Columns of table `name` with the schema's order and types.

    A value that is not a sequence is repeated in every row; columns of the schema that are not given are NULL, or what
    `fixed` says. A table that the schema does not know keeps its columns as they are.

    Raises:
        DataError: a column that the schema does not have, a value that does not fit its type, unequal lengths.
    """
    given = (
        dict(columns) if isinstance(columns, Mapping) else dict(zip(columns.column_names, columns.columns, strict=True))
    )
    given = {c: v for c, v in given.items() if c not in FILLED_BY_VIEWS}
    lengths = {len(v) for v in given.values() if not _scalar(v)} or {1}
    if len(lengths) > 1:
        raise DataError(f"table {name}: columns have different lengths {sorted(lengths)}")
    rows = lengths.pop()
    table = tables().get(name)
    if table is None:
        return pa.table({c: pa.array([v] * rows) if _scalar(v) else _array(v, None) for c, v in given.items()})
    known = {c.name: c for c in table.columns if c.name not in FILLED_BY_VIEWS}
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise DataError(f"table {name} has no column {', '.join(unknown)}; it has {', '.join(known)}")
    given = {**{c: v for c, v in (fixed or {}).items() if c in known}, **given}
    try:
        arrays = [
            pa.array([given.get(c)] * rows, column.arrow) if _scalar(given.get(c)) else _array(given[c], column.arrow)
            for c, column in known.items()
        ]
    except (pa.ArrowException, OverflowError) as error:
        raise DataError(f"table {name}: {error}") from error
    return pa.Table.from_arrays(arrays, names=list(known))


def _scalar(value: Any) -> bool:
    return value is None or isinstance(value, str | bytes) or not hasattr(value, "__len__")


def _array(values: Any, kind: pa.DataType | None) -> pa.Array | pa.ChunkedArray:
    if isinstance(values, pa.Array | pa.ChunkedArray):
        return values if kind is None else values.cast(kind)
    if isinstance(values, np.ndarray):
        array = pa.array(values)
        return array if kind is None else array.cast(kind)
    return pa.array(values, kind)
