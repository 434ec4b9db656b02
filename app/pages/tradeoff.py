"""Reconstruction and what it saves of the model's loss against sparsity: dictionaries that saw the same tokens."""

from __future__ import annotations

from html import escape

import streamlit as st

from sparse_rep.app import data
from sparse_rep.app.charts.tradeoff import tradeoff
from sparse_rep.app.choices import one_of
from sparse_rep.app.components import blocks
from sparse_rep.app.components.blocks import Cell, Column
from sparse_rep.app.widgets import chart, section
from sparse_rep.app.wording import percent, plural, significant

TITLE = "Sparsity trade-off"
ICON = ":material/stacked_line_chart:"
ORDER = 51
PATH = "tradeoff"
SECTION = "Training"
HELP = "What each architecture gives at the same sparsity: explained variance and loss recovered against L0."


def render() -> None:
    found = data.rows("app_training.tradeoff")
    st.html(blocks.heading("What does each architecture give at the same sparsity?"))
    if not found:
        st.html(
            blocks.empty_state(
                "No dictionary with held-out figures yet",
                "Train every architecture at several sparsities on the same tokens; one dictionary is one point.",
                f"sparse-rep bench pareto --store {data.store_path()}",
            )
        )
        return
    settings = list(dict.fromkeys(row["setting"] for row in found))
    setting = one_of("Setting", settings, "setting", words={name: name for name in settings})
    rows = [row for row in found if row["setting"] == setting]
    first = rows[0]
    note = f" ({first['model_note']})" if first["model_note"] else ""
    about = f"{plural(len(rows), 'dictionary', 'dictionaries')} at {first['hook']} of {first['model']}{note}"
    st.html(
        blocks.note(
            f"{about}, each of {first['n_latents']:,} latents, trained on the same {first['n_tokens'] or 0:,} tokens."
        )
    )
    with section("Against L0", "held-out text; up and to the left is better", query="app_training.tradeoff"):
        for column, (metric, words) in zip(
            st.columns(2, gap="large"),
            (("explained_variance", "explained variance"), ("ce_recovered", "share of the loss recovered")),
            strict=True,
        ):
            measured = [row for row in rows if row[metric] is not None]
            with column:
                if measured:
                    alt = f"{words} against active latents a token, one line an architecture, {len(measured)} dictionaries"
                    chart(tradeoff(measured, metric, words), alt=alt)
                else:
                    st.html(blocks.note(f"No dictionary here has a figure for the {words}."))
    columns = (
        Column("dictionary"),
        Column("architecture"),
        Column("L0", numeric=True),
        Column("explained variance", numeric=True),
        Column(
            "loss recovered", numeric=True, tip="Share of the rise in loss from zeroing the hook that splicing avoids"
        ),
        Column("dead", numeric=True, tip="Latents that never fired on held-out text"),
    )
    with section("Figures"):
        st.html(blocks.table(columns, map(_row, rows), caption="Dictionaries of this setting"))


def _row(row: data.Row) -> list[Cell]:
    return [
        Cell(escape(row["dictionary_id"])),
        blocks.text((row["kind"] or "").replace("_", " ")),
        blocks.text(significant(row["l0"])),
        Cell(percent(row["explained_variance"]), bar=row["explained_variance"]),
        Cell(percent(row["ce_recovered"]), bar=row["ce_recovered"]),
        blocks.text(percent(row["dead_share"])),
    ]
