"""What is in the store: dictionaries, runs, corpora."""

from __future__ import annotations

from collections import defaultdict
from html import escape

import streamlit as st

from sparse_rep.app import data
from sparse_rep.app.charts.training import training_curves
from sparse_rep.app.components import blocks, overview_blocks
from sparse_rep.app.subject import subjects
from sparse_rep.app.widgets import chart, section
from sparse_rep.app.wording import count, plural, size

TITLE = "Overview"
ICON = ":material/home_storage:"
ORDER = 10
PATH = ""
HELP = "What is in this store: dictionaries with their held-out figures, runs with their provenance, corpora."

SHOWN = 24
"""Dictionaries with a card of their own; a store may hold hundreds."""


def render() -> None:
    dictionaries = data.rows("app_overview.dictionaries")
    runs = data.rows("app_overview.runs")
    corpora = data.rows("app_overview.corpora")
    codes = sum(run["n_rows"] or 0 for run in runs)
    held = sum(run["bytes"] or 0 for run in runs)
    about = (
        f"<span><b>{escape(data.store_path())}</b></span><span>{plural(len(dictionaries), 'dictionary', 'dictionaries')}</span>"
        f"<span>{plural(len(runs), 'run')}</span><span>{count(codes)} codes in {size(held)}</span>"
    )
    st.html(blocks.heading("What is in this store?", about))
    if not (dictionaries or runs or corpora):
        st.html(
            blocks.empty_state(
                "Nothing yet",
                "Train a dictionary and extract its codes, or let the demo do both on a small model with text from this machine.",
                f"sparse-rep demo --store {data.store_path()}",
            )
        )
        return
    for run in runs:
        if run["status"] == "damaged":
            st.html(blocks.alert(f"Run {run['run_id']} is damaged and left out: {run['note']}", "warn"))
    _dictionaries(dictionaries)
    _training()
    # A run that is being written moves while one looks.
    live = any(run["status"] == "live" for run in runs)
    st.fragment(_runs, run_every=5 if live else None)()
    _corpora(corpora)


def _dictionaries(dictionaries: list[data.Row]) -> None:
    cut = f"latest {SHOWN} of {len(dictionaries)}" if len(dictionaries) > SHOWN else "scored on held-out documents"
    with section("Dictionaries", cut, query="app_overview.dictionaries"):
        if not dictionaries:
            st.html(blocks.note("None. `sparse-rep train` makes one, `sparse-rep import` takes one from elsewhere."))
            return
        domains: dict[str, list[data.Row]] = defaultdict(list)
        for row in data.rows("app_overview.domain_figures"):
            domains[row["dictionary_id"]].append(row)
        pages = {s.dictionary_id: s for s in reversed(subjects())}
        cards = (
            overview_blocks.dictionary_card(d, domains[d["dictionary_id"]], pages.get(d["dictionary_id"]))
            for d in dictionaries[:SHOWN]
        )
        st.html(f'<div class="cards">{"".join(cards)}</div>')


def _training() -> None:
    metrics = [row["metric"] for row in data.rows("app_overview.training_metrics")]
    if not metrics:
        return
    metric = "explained_variance" if "explained_variance" in metrics else metrics[0]
    with section("Training", "" if len(metrics) > 1 else metric.replace("_", " ")):
        if len(metrics) > 1:
            metric = st.segmented_control(
                "Metric", metrics, default=metric, format_func=lambda m: m.replace("_", " "),
                key="metric", label_visibility="collapsed", required=True,
            )  # fmt: skip
        points = data.rows("app_overview.training", metric=metric)
        split = "train" if any(p["split"] == "train" for p in points) else points[0]["split"]
        points = [p for p in points if p["split"] == split]
        words = metric.replace("_", " ")
        chart(training_curves(points, f"{words} ({split})"), alt=f"{words} over training steps, one line a dictionary")


def _runs() -> None:
    runs = data.rows("app_overview.runs")
    with section("Runs", "latest first" if len(runs) < 200 else "latest 200", query="app_overview.runs"):
        st.html(overview_blocks.runs_table(runs) if runs else blocks.note("None yet."))


def _corpora(corpora: list[data.Row]) -> None:
    with section("Texts", "tokens and documents by domain", query="app_overview.corpora"):
        st.html(overview_blocks.corpora_table(corpora) if corpora else blocks.note("None yet."))
