"""The table of features as HTML: real links, headings that sort in SQL, bars on a log scale."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import log10
from typing import Any

from sparse_rep.app.components.blocks import Cell, Column, link, table, text
from sparse_rep.app.components.feature_blocks import badges
from sparse_rep.app.wording import count, percent, shown, significant

Row = Mapping[str, Any]

SORTS = {
    "feature": "feature",
    "density": "density",
    "mean": "mean",
    "max": "max",
    "docs": "documents",
    "energy": "energy",
    "match": "match",
    "domain": "times denser",
}
"""What the table can be sorted by, and the heading that says so."""

_TIPS = {
    "density": "Share of tokens on which it fires (bar: log scale from 0.001 % to 100 %)",
    "mean": "Mean activation where it fires",
    "max": "Largest activation",
    "docs": "Documents in which it fires",
    "energy": "Share of the dictionary's summed squared activations",
    "match": "Of the token's occurrences, the share on which it fires · of its firings, the share that are the token",
    "domain": "Density in the chosen domain over its density in all text",
}


@dataclass(frozen=True)
class Order:
    """The present order and the address of the same table in another one."""

    sort: str
    descending: bool
    address: Callable[[str, bool], str]


def feature_table(
    rows: Sequence[Row], to: Callable[[int], str], order: Order, *, searched: bool, domain: str | None
) -> str:
    """Rows of `app_features.page`. `to`: address of a feature; searched, domain: show the columns about the search or
    about the domain."""
    wanted = ["feature", "density", "mean", "max", "docs", "energy"]
    wanted[1:1] = ["match"] * searched + ["domain"] * (domain is not None)

    def column(key: str) -> Column:
        now = key == order.sort
        first = key != "feature"  # numbers: largest first; ids: smallest first
        state = ("descending" if order.descending else "ascending") if now else None
        address = order.address(key, not order.descending if now else first)
        label = f"times denser in {domain}" if key == "domain" else SORTS[key]
        return Column(label, numeric=True, tip=_TIPS.get(key, ""), href=address, sorted=state)

    columns = [column(key) for key in wanted]
    promotes = any(row["promoted"] for row in rows)
    columns[1:1] = [Column("fires most on"), *([Column("promotes")] if promotes else [])]
    return table(
        columns, [_row(row, to, wanted, promotes) for row in rows], caption="Features of the dictionary", css="features"
    )


def _row(row: Row, to: Callable[[int], str], wanted: Sequence[str], promotes: bool) -> list[Cell]:
    cells = {
        "feature": Cell(link(to(row["feature"]), str(row["feature"]))),
        "density": Cell(
            percent(row["frac_nonzero"]), bar=_log_bar(row["frac_nonzero"]), tip=f"{row['n_active']:,} tokens"
        ),
        "mean": text(significant(row["mean_act"])),
        "max": text(significant(row["max_act"])),
        "docs": text(count(row["n_docs"])),
        "energy": text(percent(row["energy_share"])),
        "match": Cell(f"{percent(row['hit_recall'], 2)} of it · {percent(row['hit_share'], 2)}", bar=row["hit_recall"]),
        "domain": text(significant(row["domain_lift"], 2)),
    }
    line = [cells[key] for key in wanted]
    if row["dead"]:
        line = [cells["feature"], *[text("") for _ in wanted[1:]]]
    said = _chips(row["texts"]) if not row["dead"] else badges(row)
    line[1:1] = [Cell(said), *([Cell(_chips(row["promoted"]))] if promotes else [])]
    return line


def _chips(tokens: Sequence[str] | None) -> str:
    chips = "".join(f'<span class="tok">{escape(shown(token))}</span>' for token in tokens or ())
    return f'<div class="chips">{chips}</div>'


def _log_bar(density: float) -> float | None:
    """0 at 0.001 %, 1 at 100 %."""
    return (log10(density) + 5) / 5 if density else None
