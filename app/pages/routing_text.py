"""Text: which expert reads each token, at one layer in full and at the others in small."""

from __future__ import annotations

from html import escape

import streamlit as st

from sparse_rep.app import data, links
from sparse_rep.app import mixture as mixtures
from sparse_rep.app.components import blocks, routed_text
from sparse_rep.app.mixture import Mixture
from sparse_rep.app.widgets import section
from sparse_rep.app.wording import count

TITLE = "Routed text"
ICON = ":material/format_color_text:"
ORDER = 63
PATH = "routed"
SECTION = "Routing"
HELP = "A document with the experts that each of its tokens chose, layer by layer."

PASSAGE = 320
"""Tokens of the passage."""
SMALL = 72
"""Tokens of the small multiples."""
PANELS = 12
CHOICE = 1000
"""Documents in the list; any other opens by its number in the address."""


def render() -> None:
    subject = mixtures.choose()
    if subject is None:
        return
    mixtures.head(subject, "Which expert reads each token?", PATH)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        doc = _document(subject)
        layer = mixtures.layer_choice(subject)
    if doc is None:
        return
    at = links.whole_number(st.query_params.get("at"), doc["tok_hi"] - 1)
    focus = at if at is not None and at >= doc["tok_lo"] else None
    begin = max(doc["tok_lo"], (focus if focus is not None else doc["tok_lo"]) - PASSAGE // 3)
    where = {"lo": begin, "hi": min(doc["tok_hi"], begin + PASSAGE)}
    tokens = data.rows("app_read.text", corpus=subject.corpus_id, **where)
    choices = subject.ask("app_routing.passage", layers=[layer], **where)
    if not choices:
        st.html(
            blocks.empty_state(
                "Not routed", f"No token of this passage went through the router of layer {layer} in this run."
            )
        )
        return
    _passage(subject, layer, doc, where, tokens, choices, focus)
    _multiples(subject, doc, where["lo"], tokens)


def _document(subject: Mixture) -> data.Row | None:
    known = data.rows("app_read.docs", corpus=subject.corpus_id, limit=CHOICE)
    asked = st.query_params.get("doc")
    number = links.whole_number(asked, 2**32 - 1) if asked is not None else (known[0]["doc"] if known else None)
    found = data.rows("app_read.doc", corpus=subject.corpus_id, doc=number) if number is not None else []
    if not found:
        said = (
            f"There is no document {asked!r} in {subject.corpus_id}." if asked is not None else "It holds no documents."
        )
        st.html(blocks.empty_state("Nothing to read", said))
        return None
    names = {row["doc"]: f"{row['source']} · {row['domain']} · {count(row['n_tokens'])} tokens" for row in known}
    names.setdefault(found[0]["doc"], str(found[0]["source"]))
    st.session_state["routed_document"] = found[0]["doc"]
    st.selectbox(
        "Document",
        list(names),
        key="routed_document",
        format_func=lambda d: names.get(d, str(d)),
        on_change=_open,
        width=460,
    )
    return found[0]


def _open() -> None:
    st.query_params["doc"] = str(st.session_state["routed_document"])
    st.query_params.pop("at", None)


def _passage(
    subject: Mixture,
    layer: int,
    doc: data.Row,
    where: dict[str, int],
    tokens: list[data.Row],
    choices: list[data.Row],
    focus: int | None,
) -> None:
    hue = routed_text.hues(choices)

    def to(expert: int) -> str:
        return subject.expert(layer, expert)

    text, legend = st.columns([1.85, 1], gap="large")
    span = f"tokens {where['lo'] - doc['tok_lo'] + 1:,} to {where['hi'] - doc['tok_lo']:,} of {doc['tok_hi'] - doc['tok_lo']:,}"
    with (
        text,
        section(
            f"{doc['source']} at layer {layer}",
            span,
            query="app_routing.passage",
            run=subject.run_id,
            layers=[layer],
            **where,
        ),
    ):
        st.html(routed_text.passage(tokens, choices, hue, to, focus))
        st.html(_steps(subject, layer, doc, where["lo"], where["hi"]))
    with legend, section("Experts here", "hues of the text"):
        st.html(routed_text.legend(choices, hue, subject.n_experts, subject.k, to))
        st.html(blocks.note(
            "The hue is a token's first choice, its strength the share of weight that choice has. Hover for every choice; "
            "experts beyond the six most frequent are grey."
        ))  # fmt: skip


def _multiples(subject: Mixture, doc: data.Row, lo: int, tokens: list[data.Row]) -> None:
    layers = subject.layers
    if len(layers) < 2:
        return
    shown = (
        layers
        if len(layers) <= PANELS
        else [layers[round(i * (len(layers) - 1) / (PANELS - 1))] for i in range(PANELS)]
    )
    where = {"lo": lo, "hi": lo + min(SMALL, len(tokens))}
    cut = f"; {PANELS} of {len(layers)} routers" if len(layers) > PANELS else ""
    with section("The same tokens, layer by layer", f"first {where['hi'] - lo} tokens{cut}; hues rank the experts "
                 "within each panel", query="app_routing.passage", run=subject.run_id, layers=shown, **where):  # fmt: skip
        by_layer: dict[int, list[data.Row]] = {layer: [] for layer in shown}
        for choice in subject.ask("app_routing.passage", layers=shown, **where):
            by_layer[choice["layer"]].append(choice)
        st.html(routed_text.multiples([
            (
                f"layer {layer}",
                subject.link(PATH, layer=layer, doc=doc["doc"], at=st.query_params.get("at")),
                routed_text.passage(tokens[:SMALL], mine, routed_text.hues(mine), None),
            )
            for layer, mine in by_layer.items()
        ]))  # fmt: skip


def _steps(subject: Mixture, layer: int, doc: data.Row, lo: int, hi: int) -> str:
    def address(begin: int) -> str:
        return subject.link(PATH, layer=layer, doc=doc["doc"], at=begin + PASSAGE // 3)

    before = address(max(doc["tok_lo"], lo - PASSAGE)) if lo > doc["tok_lo"] else None
    after = address(hi) if hi < doc["tok_hi"] else None
    steps = blocks.step(before, "earlier", "ArrowLeft", "\u2190") + blocks.step(after, "later", "ArrowRight", "\u2192")
    return f'<nav class="steps" aria-label="Through {escape(str(doc["source"]))}">{steps}</nav>'
