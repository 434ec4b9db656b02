"""Together: which experts are chosen for the same token, and how choices follow each other through the layers."""

from __future__ import annotations

import streamlit as st

from sparse_rep.app import mixture as mixtures
from sparse_rep.app.charts.routing_flow import flow
from sparse_rep.app.charts.routing_pairs import together
from sparse_rep.app.choices import one_of
from sparse_rep.app.components import blocks, expert_blocks
from sparse_rep.app.mixture import Mixture
from sparse_rep.app.widgets import chart, section
from sparse_rep.app.wording import count, percent, plural

TITLE = "Experts together"
ICON = ":material/hub:"
ORDER = 61
PATH = "together"
SECTION = "Routing"
HELP = "Experts that are chosen for the same token, and the paths of tokens from router to router."

MOST = 64
"""Experts of the heat map."""
PAIRS = 10
STEPS = 80
"""Bands of the Sankey diagram."""
SPAN = 3
"""Routers of the Sankey diagram."""
PATHS = 15
MEASURES = {"lift": "Lift", "share": "P(column | row)", "adjacent": "Adjacent ranks only"}


def render() -> None:
    subject = mixtures.choose()
    if subject is None:
        return
    mixtures.head(subject, "Which experts are chosen together?", PATH)
    if mixtures.needs_analysis(subject):
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        layer = mixtures.layer_choice(subject)
        measure = one_of("Measure", list(MEASURES), "measure", MEASURES)
    left, right = st.columns([1.5, 1], gap="large")
    with left:
        _together(subject, layer, measure)
    with right:
        _pairs(subject, layer, avoided=False)
        _pairs(subject, layer, avoided=True)
    if subject.n_routers < 2:
        st.html(blocks.note("This model has one router, so there are no steps between routers."))
        return
    _flow(subject, layer)
    _paths(subject)


def _together(subject: Mixture, layer: int, measure: str) -> None:
    rows = subject.ask("app_routing.together", layer=layer, most=MOST)
    cut = f", the {MOST} busiest of {subject.n_experts}" if subject.n_experts > MOST else ""
    said = {
        "lift": "tokens that chose both, over those that loads and k explain",
        "share": "of the row expert's tokens, those that chose the column's too; a row sums to k - 1",
        "adjacent": "the same, counting neighbouring ranks only, as OLMoE's script does",
    }[measure]
    with section(f"Chosen for the same token at layer {layer}", f"{said}{cut}", query="app_routing.together",
                 run=subject.run_id, layer=layer, most=MOST):  # fmt: skip
        if not rows:
            st.html(blocks.note("Its router chooses one expert a token, so none are chosen together."))
            return
        chart(together(rows, measure), alt=f"Heat map of experts chosen together at layer {layer}, ordered by cluster")
        st.html(
            blocks.note(
                f"n = {count(subject.n_tokens)} tokens. Experts are ordered so that those chosen together lie side by side."
            )
        )


def _pairs(subject: Mixture, layer: int, *, avoided: bool) -> None:
    rows = subject.ask("app_routing.pairs", layer=layer, avoided=avoided, limit=PAIRS)
    title = "Seldom together" if avoided else "Most often together"
    with section(
        title, "surest first", query="app_routing.pairs", run=subject.run_id, layer=layer, avoided=avoided, limit=PAIRS
    ):
        st.html(expert_blocks.pairs(rows, layer, subject.expert) if rows else blocks.note("No such pair."))


def _flow(subject: Mixture, layer: int) -> None:
    at = min(subject.layers.index(layer), max(len(subject.layers) - SPAN, 0))
    shown = subject.layers[at : at + SPAN]
    span = {"first": shown[0], "last": shown[-1]}
    steps = subject.ask("app_routing.transitions", **span, limit=STEPS)
    totals = subject.ask("app_routing.transition_totals", **span)
    kept, every = sum(s["n"] for s in steps), sum(t["n"] for t in totals)
    share = percent(kept / every, 2) if every else "none"
    said = f"{plural(len(steps), 'step')} of {count(sum(t['n_steps'] for t in totals))}, {share} of tokens"
    title = f"Where tokens go from layer {shown[0]} to {shown[-1]}"
    with section(
        title, f"first choices; {said}", query="app_routing.transitions", run=subject.run_id, **span, limit=STEPS
    ):
        chart(flow(steps), alt=f"Sankey diagram of first choices from layer {shown[0]} to layer {shown[-1]}")
        st.html(blocks.note("Orange: surely more tokens than loads explain; blue: surely fewer; grey: as expected."))


def _paths(subject: Mixture) -> None:
    rows = subject.ask("app_routing.paths", limit=PATHS)
    with section("Commonest paths", f"first choices through all {subject.n_routers} routers", query="app_routing.paths",
                 run=subject.run_id, limit=PATHS):  # fmt: skip
        st.html(
            expert_blocks.paths(rows, subject.layers, subject.expert)
            if rows
            else blocks.note("No token passed every router.")
        )
