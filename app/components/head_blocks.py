"""Tables about attention heads as HTML: rows of the app_heads queries in, one string out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

from sparse_rep.app.components.blocks import Cell, Column, badge, link, table, text
from sparse_rep.app.wording import NOTHING, count, percent, significant

Row = Mapping[str, Any]
Link = Callable[[int, int], str]
"""(layer, head) -> address"""


def ranked(rows: Sequence[Row], metric: str, label: str, to: Link, most: int) -> str:
    """Heads from the highest figure down; beyond `most` the lowest half of them are the lowest there are."""
    kept = rows if len(rows) <= most else [*rows[: most // 2], *rows[-(most - most // 2) :]]
    top = max((abs(r[metric]) for r in kept), default=1.0) or 1.0
    columns = [
        Column("head"),
        Column(label, numeric=True),
        Column("class"),
        Column("keys for 95 %", numeric=True),
        Column("sink", numeric=True, tip="Mass on the first 4 keys"),
    ]
    body = [
        [
            Cell(_head(r, to)),
            Cell(significant(r[metric]), bar=abs(r[metric]) / top),
            text(r["class"] or NOTHING),
            text(significant(r["keys95"])),
            text(percent(r["sink"])),
        ]
        for r in kept
    ]
    caption = f"Heads by {label}" + (
        "" if len(kept) == len(rows) else f": the {most // 2} highest and the {most - most // 2} lowest"
    )
    return table(columns, body, caption=caption)


def methods(rows: Sequence[Row], to: Callable[[str], str]) -> str:
    """Every method that applies, by name. rows: of `app_heads.methods`."""
    columns = [
        Column("method"),
        Column("density", numeric=True, tip="Pairs kept of those visible, median head"),
        Column("recall", numeric=True, tip="Median head"),
        Column("at best", numeric=True, tip="The most that its own count of blocks or keys in every row could keep"),
        Column("output error", numeric=True, tip="Median head"),
        Column("heads kept", numeric=True, tip="Heads with recall of 0.9 or more"),
        Column("kept but off", numeric=True, tip="Of those, heads whose output still moves by more than a fifth"),
        Column("logits read", numeric=True, tip="To choose, as a share of the visible pairs"),
    ]
    body = [
        [
            Cell(link(to(r["method"]), r["method"].replace("_", " ")) + _phase(r)),
            text(percent(r["density"])),
            Cell(significant(r["recall"]), bar=r["recall"]),
            text(significant(r["oracle"])),
            text(significant(r["out_err"])),
            text(f"{count(r['n_kept'])} of {count(r['n_heads'])}"),
            text(count(r["n_kept_but_off"])),
            text(percent(r["pairs_read"])),
        ]
        for r in rows
    ]
    return table(columns, body, caption="Methods by name")


def absent(rows: Sequence[Row]) -> str:
    """Methods that do not apply, and why."""
    items = "".join(
        f"<li><b>{escape(r['method'].replace('_', ' '))}</b>: {escape(r['reason'] or '')}</li>" for r in rows
    )
    return f"<ul>{items}</ul>" if items else ""


def of_head(rows: Sequence[Row]) -> str:
    """What every method keeps of one head. rows: of `app_heads.curves` that have figures."""
    columns = [
        Column("method"),
        Column("budget", numeric=True),
        Column("density", numeric=True),
        Column("recall", numeric=True),
        Column("5th percentile", numeric=True, tip="Over queries"),
        Column("beyond the sink", numeric=True, tip="Recall of the mass that is not on the first 4 keys"),
        Column("at best", numeric=True),
        Column("output error", numeric=True),
    ]
    body = [
        [
            text(r["method"].replace("_", " ")),
            text("paper" if r["budget"] is None else percent(r["budget"])),
            text(percent(r["density"])),
            Cell(significant(r["recall_mean"]), bar=r["recall_mean"]),
            text(significant(r["recall_p5"])),
            text(significant(r["recall_rest"])),
            text(significant(r["oracle"])),
            text(significant(r["out_err"])),
        ]
        for r in rows
    ]
    return table(columns, body, caption="Methods on this head")


def effects(rows: Sequence[Row]) -> str:
    """What methods do to the loss. rows: of `app_heads.effects` or `app_heads.effects_of_model`."""
    columns = [
        Column("method"),
        Column("budget", numeric=True),
        Column("on"),
        Column("change of loss", numeric=True, tip="Nats a token, against the model as it is"),
        Column("KL", numeric=True, tip="From the model as it is, nats a token"),
    ]
    body = [
        [
            text(r["method"].replace("_", " ")),
            text("paper" if r["budget"] is None else percent(r["budget"])),
            text(_where(r)),
            text(f"{r['change']:+.4f}"),
            text(significant(r["kl"])),
        ]
        for r in rows
    ]
    return table(columns, body, caption="Loss with a method in place of attention")


def _where(row: Row) -> str:
    if row.get("layer") is None:
        return "all heads"
    return f"layer {row['layer']}" if row["head"] is None else "this head alone"


def _head(row: Row, to: Link) -> str:
    return link(to(row["layer"], row["head"]), f"layer {row['layer']}, head {row['head']}")


def _phase(row: Row) -> str:
    return f" {badge('decode', 'info', 'Scored on the queries after the prompt')}" if row["applies"] == "decode" else ""
