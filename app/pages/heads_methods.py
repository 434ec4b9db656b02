"""Methods: what each keeps of all heads at one budget, and two of them against each other, head by head."""

from __future__ import annotations

import streamlit as st

from sparse_rep.app import profiles
from sparse_rep.app.charts.heads import against, methods
from sparse_rep.app.choices import one_of
from sparse_rep.app.components import blocks, head_blocks
from sparse_rep.app.data import Row
from sparse_rep.app.profiles import SCORES, Profile
from sparse_rep.app.widgets import chart, section
from sparse_rep.app.wording import count

TITLE = "Sparse methods"
ICON = ":material/filter_alt:"
ORDER = 71
PATH = "sparse"
SECTION = "Heads"
HELP = "What each sparse-attention method keeps of the heads at an equal budget, beside its oracle and chance."

NOTE = """By name, since no order of methods holds for all heads: random blocks are chance, the oracles the most there is.
Realised densities differ from the budget, most for coarse blocks on short texts, so compare a method with its own oracle.
Methods of decoding are scored on the last queries only."""
DOTS = 4096
"""Most heads of the scatter."""


def render() -> None:
    subject = profiles.choose()
    if subject is None:
        return
    profiles.top(subject, "What does each method keep?", PATH)
    if not subject.methods:
        said = "This run profiled heads alone. Score methods on the same text:"
        command = f"sparse-rep profile heads --length {subject.length} --methods all --budgets 0.05,0.1,0.2"
        st.html(blocks.empty_state("No method was scored", said, command))
        return
    budget = profiles.budget_choice(subject)
    rows = subject.ask("app_heads.methods", budget=budget)
    scored = [r for r in rows if r["applies"] != "n/a"]
    _overview(subject, scored, budget)
    _pair(subject, scored, budget)
    _effects(subject)
    _absent([r for r in rows if r["applies"] == "n/a"])


def _overview(subject: Profile, rows: list[Row], budget: float | None) -> None:
    aside = f"at {profiles.called(budget)}; median and quartiles over {count(subject.rows)} heads"
    with section("All methods", aside, query="app_heads.methods", **subject.asked(budget=budget)):
        kept, error = st.columns(2, gap="large")
        with kept:
            chart(
                methods(rows, "recall", "recall_25", "recall_75", "recall", oracle=True),
                alt=f"Recall of {len(rows)} methods over heads, with each one's oracle",
            )
        with error:
            chart(
                methods(rows, "out_err", "err_25", "err_75", "output error", oracle=False),
                alt=f"Output error of {len(rows)} methods over heads",
            )
        st.html(blocks.note(NOTE))
        drawer = st.expander("Figures", icon=":material/list:", key="figures", on_change="rerun")
        if drawer.open:
            drawer.html(head_blocks.methods(rows, lambda method: subject.link("heads", method=method)))


def _pair(subject: Profile, rows: list[Row], budget: float | None) -> None:
    names = [r["method"] for r in rows]
    if not names:
        return
    with section("One against another", "a dot a head, coloured by pattern class"):
        across, up, figure = st.columns(3)
        with across:
            first = one_of("Across", names, "a")
        with up:
            second = one_of("Up", [*names[1:], names[0]], "b")
        with figure:
            metric = one_of("Figure", list(SCORES), "score", SCORES)
        a, b = (
            {(r["layer"], r["head"]): r[metric] for r in subject.ask("app_heads.scores", method=m, budget=budget)}
            for m in (first, second)
        )
        dots = [
            {"layer": r["layer"], "head": r["head"], "class": r["class"], "x": a[at], "y": b[at]}
            for r in subject.ask("app_heads.heads")
            if a.get(at := (r["layer"], r["head"])) is not None and b.get(at) is not None
        ]
        if not dots:
            st.html(blocks.note("No head was scored by both at this budget."))
            return
        words = SCORES[metric]
        labels = (f"{words}: {name.replace('_', ' ')}" for name in (first, second))
        chart(against(dots[:DOTS], *labels), alt=f"{words} of {second} against {first}, {len(dots)} heads")
        above = sum(d["y"] > d["x"] for d in dots)
        below = sum(d["y"] < d["x"] for d in dots)
        cut = f" Drawn: the first {count(DOTS)}." if len(dots) > DOTS else ""
        said = f"Higher for {second.replace('_', ' ')}: {count(above)} of {count(len(dots))} heads; lower: {count(below)}.{cut}"
        st.html(blocks.note(said))


def _effects(subject: Profile) -> None:
    rows = subject.ask("app_heads.effects_of_model")
    if rows:
        with section("On the loss", "all heads at once", query="app_heads.effects_of_model", **subject.asked()):
            st.html(head_blocks.effects([{"layer": None, "head": None, **r} for r in rows]))


def _absent(rows: list[Row]) -> None:
    if rows:
        with section("Do not apply here"):
            st.html(head_blocks.absent(rows))
