"""SQL to show and to copy: the query that a view ran, with its parameters written in."""

from __future__ import annotations

import re
from collections.abc import Mapping

# A string literal, a quoted name, a comment, or a parameter: the first three are matched so that `$x` inside them is left alone.
_PIECES = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|--[^\n]*|\$(\w+)")


def literal(value: object) -> str:
    """A value as a DuckDB literal. Raises TypeError for what has none here."""
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(literal, value))}]"
    raise TypeError(f"no SQL literal for {type(value).__name__}")


def with_values(sql: str, params: Mapping[str, object]) -> str:
    """`sql` with each `$name` replaced by its value, ready to paste into `sparse-rep sql`."""
    return _PIECES.sub(lambda m: literal(params[m.group(1)]) if m.group(1) else m.group(0), sql.strip())
