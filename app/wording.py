"""How the app writes numbers: few digits, no false precision, the exact figure left to tooltips and SQL."""

from __future__ import annotations

import re
from math import floor, isfinite, log10

NOTHING = "\u2013"
"""Stands where there is no figure."""

_UNITS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))


def count(n: float | None) -> str:
    """1234567 -> 1.23 M; exact below 10,000."""
    if n is None or not isfinite(n):
        return NOTHING
    if abs(n) < 10_000:
        return f"{n:,.0f}"
    size, unit = next(pair for pair in _UNITS if abs(n) >= pair[0])
    return f"{significant(n / size)} {unit}"


def significant(x: float | None, digits: int = 3) -> str:
    """Three significant digits without an exponent in the usual range: 0.0312, 4.21, 187."""
    if x is None or not isfinite(x):
        return NOTHING
    if x == 0:
        return "0"
    size = floor(log10(abs(x)))
    if not -5 <= size < 7:
        return f"{x:.{digits - 1}e}"
    return f"{x:,.{max(0, digits - 1 - size)}f}"


def percent(share: float | None, digits: int = 3) -> str:
    """0.00123 -> 0.123 %."""
    if share is None or not isfinite(share):
        return NOTHING
    return f"{significant(share * 100, digits)} %"


def size(n_bytes: float | None) -> str:
    """Bytes in binary units, as file managers show them."""
    if n_bytes is None or not isfinite(n_bytes):
        return NOTHING
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(n_bytes) < 1024:
            return f"{significant(n_bytes)} {unit}"
        n_bytes /= 1024
    return f"{significant(n_bytes)} TiB"


def plural(n: int, one: str, many: str | None = None) -> str:
    """`3 features`, `1 feature`."""
    return f"{count(n)} {one if n == 1 else many or one + 's'}"


def shown(text: str | None) -> str:
    """A token as it stands in running text: white space as marks, nothing invisible, long runs counted."""
    if not text:
        return "∅"
    marks = {" ": "·", "\n": "↵", "\t": "→", "\r": "␍"}
    short = re.sub(r" {7,}", lambda run: f"·\u00d7{len(run.group())}", text)
    return "".join(marks.get(c, c if c.isprintable() else "�") for c in short)
