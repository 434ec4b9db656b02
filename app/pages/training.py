"""Training curves of several dictionaries, overlaid over the tokens they have seen; live while a run trains."""

from __future__ import annotations

from collections import defaultdict
from html import escape

import streamlit as st

from sparse_rep.app import data, links
from sparse_rep.app.charts.training import colour_of, training_curves
from sparse_rep.app.components import blocks
from sparse_rep.app.components.blocks import Cell, Column
from sparse_rep.app.subject import subjects
from sparse_rep.app.widgets import chart, section
from sparse_rep.app.wording import count, percent, plural, significant

TITLE = "Curves"
ICON = ":material/show_chart:"
ORDER = 50
PATH = "training"
SECTION = "Training"
HELP = "Training curves of several dictionaries, overlaid; live while a run trains."

AT_FIRST = 6
MOST = 24
"""Lines of one chart: beyond that nobody can follow one."""

METRICS = {
    "explained_variance": "explained variance",
    "l0": "L0: active latents a token",
    "dead_share": "share of dead latents",
    "loss": "loss",
    "aux": "AuxK loss",
    "sparsity": "sparsity loss",
    "penalty": "sparsity coefficient",
    "threshold": "inference threshold",
}
"""Metrics with a chart, in order; others are a query away."""


def render() -> None:
    members = data.rows("app_training.members")
    about = f"<span>{plural(len(members), 'dictionary', 'dictionaries')} in {escape(data.store_path())}</span>"
    st.html(blocks.heading("How did training go?", about))
    if not members:
        st.html(
            blocks.empty_state(
                "No training run yet",
                "Train a dictionary, or several on one stream of activations: their curves appear here while they train.",
                f"sparse-rep train --store {data.store_path()} --sweep dictionary.k=16,32,64",
            )
        )
        return
    chosen = _choice([str(m["dictionary_id"]) for m in members])
    live = any(m["status"] == "live" for m in members)
    st.fragment(_curves, run_every=3 if live else None)(chosen)
    _table(members)


def _choice(known: list[str]) -> list[str]:
    """Those that the address names, else the latest run's; a widget that moves the address."""
    asked = [name for name in st.query_params.get_all("dictionary") if name in known]
    st.session_state["curves"] = asked or known[:AT_FIRST]

    def moved() -> None:
        st.query_params["dictionary"] = st.session_state["curves"]

    return st.multiselect(
        "Dictionaries", known, key="curves", max_selections=MOST, on_change=moved, placeholder="Choose dictionaries",
        label_visibility="collapsed",
    )  # fmt: skip


def _curves(chosen: list[str]) -> None:
    lines: dict[str, list[data.Row]] = defaultdict(list)
    for point in data.rows("app_training.curves", dictionaries=chosen):
        lines[point["metric"]].append(point)
    shown = [metric for metric in METRICS if lines[metric]]
    with section(
        "Curves", "training batches, at most 200 points a line", query="app_training.curves", dictionaries=chosen
    ):
        if not shown:
            st.html(blocks.note("Nothing to draw: choose a dictionary, or wait for its first checkpoint."))
            return
        st.html(_legend(chosen))
        for pair in (shown[i : i + 2] for i in range(0, len(shown), 2)):
            for column, metric in zip(st.columns(2, gap="large"), pair, strict=False):
                with column:
                    words = METRICS[metric]
                    figure = training_curves(lines[metric], words, over="tokens", names=chosen)
                    chart(figure, alt=f"{words} over training tokens, one line a dictionary")


def _legend(names: list[str]) -> str:
    """One for all charts of the page."""
    marks = (f'<span><i style="background:{colour_of(i)}"></i>{escape(name)}</span>' for i, name in enumerate(names))
    return f'<div class="line-legend">{"".join(marks)}</div>'


COLUMNS = (
    Column("dictionary"),
    Column("architecture"),
    Column("hook"),
    Column("latents", numeric=True),
    Column("tokens", numeric=True, tip="Seen in training; of those planned, while it trains"),
    Column("L0", numeric=True, tip="Active latents a token, on held-out text"),
    Column(
        "explained variance", numeric=True, tip="On held-out text, without the first token of a window and outliers"
    ),
    Column("loss recovered", numeric=True, tip="Share of the rise in loss from zeroing the hook that splicing avoids"),
    Column("dead", numeric=True, tip="Latents that never fired on held-out text"),
    Column("status"),
)


def _table(members: list[data.Row]) -> None:
    pages = {s.dictionary_id: s for s in reversed(subjects())}
    with section("Where they ended", "figures on held-out text", query="app_training.members"):
        st.html(
            blocks.table(COLUMNS, [_row(m, pages.get(m["dictionary_id"])) for m in members], caption="Dictionaries")
        )


def _row(member: data.Row, page: object) -> list[Cell]:
    name = str(member["dictionary_id"])
    label = escape(name)
    if page is not None:
        label = blocks.link(links.href("features", dictionary=name), name, tip="Its features")
    live = member["status"] == "live"
    tokens = count(member["n_tokens"]) + (f" of {count(member['n_tokens_planned'])}" if live else "")
    explained = member["explained_variance"]
    return [
        Cell(label),
        blocks.text((member["kind"] or "").replace("_", " ")),
        Cell(f"<code>{escape(member['hook'] or '')}</code>", tip=str(member["model"] or "")),
        blocks.text(count(member["n_latents"])),
        blocks.text(tokens),
        blocks.text(significant(member["l0"])),
        Cell(percent(explained), bar=explained),
        Cell(percent(member["ce_recovered"]), bar=member["ce_recovered"]),
        blocks.text(percent(member["dead_share"])),
        Cell(blocks.badge(member["status"] or "", "info" if live else "plain")),
    ]
