"""Specialisation: which text each expert prefers, by domain or another labelling, and by token."""

from __future__ import annotations

import streamlit as st

from sparse_rep.app import data
from sparse_rep.app import mixture as mixtures
from sparse_rep.app.charts.routing_pairs import labels, outside
from sparse_rep.app.choices import one_of
from sparse_rep.app.components import blocks, expert_blocks
from sparse_rep.app.mixture import Mixture
from sparse_rep.app.widgets import chart, section
from sparse_rep.app.wording import count, percent, plural

TITLE = "Expert specialisation"
ICON = ":material/category:"
ORDER = 62
PATH = "specialisation"
SECTION = "Routing"
HELP = "Which domains, positions and tokens each expert is chosen for, against chance."

LABELS, BUSIEST = 40, 128
"""Labels and experts of the heat map."""
EACH = 6
EXPERTS = 64
"""Experts in the table of tokens."""
SIDES = {"input": "Token read", "next": "Next token", "predicted": "Predicted token"}


def render() -> None:
    subject = mixtures.choose()
    if subject is None:
        return
    mixtures.head(subject, "What do the experts specialise in?", PATH)
    if mixtures.needs_analysis(subject):
        return
    layer = mixtures.layer_choice(subject)
    _labels(subject, layer)
    _vocabulary(subject, layer)


def _labels(subject: Mixture, layer: int) -> None:
    known = [str(row["labelling"]) for row in subject.ask("app_routing.labellings")]
    if not known:
        st.html(blocks.note("All of this text has one domain, and its tokens carry no other label."))
        return
    head = st.container()
    labelling = one_of("Labels", known, "labelling")
    asked = {"run": subject.run_id, "layer": layer, "labelling": labelling, "most": BUSIEST}
    rows = data.rows("app_routing.labels", **asked)
    names = list(dict.fromkeys(r["label"] for r in rows))
    shown = [r for r in rows if r["label"] in set(names[:LABELS])]
    cut = f"; first {LABELS} of {len(names)} labels" if len(names) > LABELS else ""
    cut += f"; {BUSIEST} busiest of {subject.n_experts} experts" if subject.n_experts > BUSIEST else ""
    n = count(sum({r["label"]: r["n_label"] for r in rows}.values()))
    uniform = percent(rows[0]["uniform"])
    aside = f"share of a label's tokens that choose the expert, over k / experts = {uniform}; n = {n} tokens{cut}"
    with head:
        section(f"Shares by {labelling} at layer {layer}", aside, query="app_routing.labels", **asked)
    chart(labels(shown), alt=f"Heat map of experts by {labelling}: share of tokens over the uniform level")
    beyond = sum(outside(r) for r in shown)
    null = "shuffling domains among documents explains" if labelling == "domain" else "k / experts explains"
    said = f"A dot marks {plural(beyond, 'share')} of {len(shown)} that differ from what {null}; one in 20 would by chance."
    st.html(blocks.note(said))


def _vocabulary(subject: Mixture, layer: int) -> None:
    sides = [str(row["side"]) for row in subject.ask("app_routing.sides")]
    if not sides:
        st.html(blocks.note("No token occurs ten times in this text, so there is no vocabulary to show."))
        return
    head = st.container()
    side = one_of("Token", sides, "side", SIDES)
    asked = {"run": subject.run_id, "layer": layer, "side": side, "each": EACH, "most": EXPERTS}
    rows = data.rows("app_routing.vocabulary", **asked)
    cut = f"; {EXPERTS} of {subject.n_experts} experts" if subject.n_experts > EXPERTS else ""
    aside = f"by {SIDES.get(side, side).lower()}; at least 10 occurrences; surest first{cut}"
    with head:
        section(f"Tokens that experts prefer at layer {layer}", aside, query="app_routing.vocabulary", **asked)
    st.html(expert_blocks.vocabulary(rows, layer, subject.expert))
