"""Heads: every head of a model by any figure, and any two figures against each other."""

from __future__ import annotations

from collections import Counter
from typing import Any

import streamlit as st

from sparse_rep.app import profiles
from sparse_rep.app.charts.heads import by_head, classes, scatter
from sparse_rep.app.choices import one_of
from sparse_rep.app.components import blocks, head_blocks
from sparse_rep.app.components.blocks import Figure
from sparse_rep.app.data import Row
from sparse_rep.app.profiles import HEAD_METRICS, SCORES, Profile
from sparse_rep.app.widgets import chart, section
from sparse_rep.app.wording import count, percent, plural, significant

TITLE = "Attention heads"
ICON = ":material/grid_view:"
ORDER = 70
PATH = "heads"
SECTION = "Heads"
HELP = "Every attention head by what it needs, and by what a sparse method keeps of it."

CELLS = 8192
"""Most cells of the heat map."""
DOTS = 4096
"""Most heads of the scatter."""
LISTED = 60
"""Most heads of the table."""


def render() -> None:
    subject = profiles.choose()
    if subject is None:
        return
    profiles.top(subject, "What does each head attend to?", PATH)
    rows = subject.ask("app_heads.heads")
    st.html(_figures(rows))
    with st.container(horizontal=True, vertical_alignment="bottom"):
        method = profiles.method_choice(subject)
        budget = profiles.budget_choice(subject) if method else None
    joined, known = with_scores(subject, rows, method, budget)
    _map(subject, joined, known, method, budget)
    _scatter(subject, joined, known, method, budget)
    _classes(rows)


def with_scores(
    subject: Profile, rows: list[Row], method: str | None, budget: float | None
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Heads with what a method keeps of them, and the figures that any of them has, by name."""
    scores = {} if method is None else {
        (r["layer"], r["head"]): r for r in subject.ask("app_heads.scores", method=method, budget=budget)
    }  # fmt: skip
    joined = [{**r, **{name: scores.get((r["layer"], r["head"]), {}).get(name) for name in SCORES}} for r in rows]
    of_method = {name: f"{words}: {(method or '').replace('_', ' ')}" for name, words in SCORES.items()}
    known = {
        name: words for name, words in {**HEAD_METRICS, **of_method}.items() if any(r[name] is not None for r in joined)
    }
    return joined, known


def _figures(rows: list[Row]) -> str:
    kinds = Counter(r["class"] for r in rows)
    common, n = kinds.most_common(1)[0]
    keys = sorted(r["keys95"] for r in rows if r["keys95"] is not None)
    sink = [r for r in rows if r["sink"] > 0.5]
    windows = [r["window"] for r in rows if r["window"]]
    items = [
        Figure("Heads", count(len(rows)), f"{count(len({r['layer'] for r in rows}))} layers"),
        Figure(
            "Commonest pattern",
            str(common),
            f"{count(n)} heads",
            "The simple pattern that keeps most at an equal number of pairs",
        ),
        Figure(
            "On the sink",
            percent(len(sink) / len(rows)),
            "of heads",
            "Heads with more than half of their mass on the first 4 keys",
        ),
    ]
    if keys:
        median = significant(keys[len(keys) // 2])
        items.append(Figure("Keys for 95 %", median, f"median head; {significant(keys[0])} to {significant(keys[-1])}"))
    if windows:
        items.append(Figure("Sliding windows", count(len(windows)), f"heads, of {count(min(windows))} keys and up"))
    return blocks.figures(items)


def _map(
    subject: Profile, rows: list[dict[str, Any]], known: dict[str, str], method: str | None, budget: float | None
) -> None:
    head = st.container()
    metric = one_of("Figure", list(known), "metric", known)
    shown = rows[: max(1, CELLS // subject.n_heads) * subject.n_heads]
    cut = f"; first {count(len(shown))} of {count(len(rows))} heads" if len(shown) < len(rows) else ""
    query = (
        {"query": "app_heads.scores", **subject.asked(method=method, budget=budget)}
        if metric in SCORES
        else {"query": "app_heads.heads", **subject.asked()}
    )
    with head:
        section("Layer by head", f"{plural(subject.n_texts, 'text')} of {count(subject.length)} tokens{cut}", **query)
    chart(by_head(shown, metric, known[metric]), alt=f"Heat map of heads by layer: {known[metric]}")
    ranked = sorted((r for r in rows if r[metric] is not None), key=lambda r: -r[metric])
    drawer = st.expander("Heads by this figure", icon=":material/list:", key="ranked", on_change="rerun")
    if drawer.open:
        drawer.html(head_blocks.ranked(ranked, metric, known[metric], subject.head, LISTED))


def _scatter(
    subject: Profile, rows: list[dict[str, Any]], known: dict[str, str], method: str | None, budget: float | None
) -> None:
    query = (
        {"query": "app_heads.joined", **subject.asked(method=method, budget=budget)}
        if method
        else {"query": "app_heads.heads", **subject.asked()}
    )
    with section("One figure against another", "a dot a head, coloured by pattern class", **query):
        left, right = st.columns(2)
        names = list(known)
        with left:
            x = one_of("Across", _first(names, "recall_mean", "sink"), "x", known)
        with right:
            y = one_of("Up", _first(names, "out_err", "entropy"), "y", known)
        dots = [r for r in rows if r[x] is not None and r[y] is not None][:DOTS]
        if not dots:
            st.html(blocks.note("No head has both figures."))
            return
        chart(scatter(dots, x, y, known[x], known[y]), alt=f"{known[y]} against {known[x]}, {len(dots)} heads")
        if len(rows) > DOTS:
            st.html(blocks.note(f"The first {count(DOTS)} of {count(len(rows))} heads."))


def _first(names: list[str], *wanted: str) -> list[str]:
    """The names with the first of those wanted that is there in front: it is what an address without a choice shows."""
    lead = next((name for name in wanted if name in names), names[0])
    return [lead, *(name for name in names if name != lead)]


def _classes(rows: list[Row]) -> None:
    budget = next((r["class_budget"] for r in rows if r["class_budget"] is not None), None)
    said = f"best simple pattern when each may keep {percent(budget)} of the pairs" if budget else ""
    with section("Pattern classes", said):
        chart(classes(Counter(r["class"] for r in rows)), alt="Number of heads of each pattern class")
        st.html(
            blocks.note(
                "A head whose best pattern keeps little is diffuse. The margin to the second best is a figure above."
            )
        )
