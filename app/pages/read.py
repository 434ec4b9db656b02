"""A document with the features that fire on each token: from the text to the dictionary, the other way round."""

from __future__ import annotations

from html import escape

import streamlit as st

from sparse_rep.app import data, links
from sparse_rep.app.components import blocks, reader
from sparse_rep.app.limits import DENSE
from sparse_rep.app.subject import Subject, choose, picker
from sparse_rep.app.widgets import section
from sparse_rep.app.wording import count

TITLE = "Read"
ICON = ":material/menu_book:"
ORDER = 40
PATH = "read"
HELP = "A document of the corpus with the features that fire on each of its tokens."

PASSAGE = 320
"""Tokens a passage: what fits a screen or two."""
CHOICE = 1000
"""Documents in the list; any other opens by its number in the address."""
ON_HOVER = 6


def render() -> None:
    subject = choose()
    if subject is None:
        return
    title, choice = st.columns([3, 1], vertical_alignment="top")
    title.html(blocks.heading("What fires in this text?", subject.about()))
    with choice:
        picker(subject)
    if subject.corpus_id is None:
        st.html(blocks.empty_state("No text", "The codes of this run name no corpus, so there is nothing to read."))
        return
    doc = _document(subject)
    if doc is not None:
        _passage(subject, doc)


def _document(subject: Subject) -> data.Row | None:
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
    st.session_state["document"] = found[0]["doc"]
    st.selectbox(
        "Document", list(names), key="document", format_func=lambda d: names.get(d, str(d)), on_change=_open, width=560
    )
    return found[0]


def _open() -> None:
    st.query_params["doc"] = str(st.session_state["document"])
    st.query_params.pop("at", None)


def _passage(subject: Subject, doc: data.Row) -> None:
    at = links.whole_number(st.query_params.get("at"), doc["tok_hi"] - 1)
    focus = at if at is not None and at >= doc["tok_lo"] else None
    begin = max(doc["tok_lo"], (focus if focus is not None else doc["tok_lo"]) - PASSAGE // 3)
    where = {"lo": begin, "hi": min(doc["tok_hi"], begin + PASSAGE)}
    leading = subject.ask("app_read.leading", **where, dense=DENSE, limit=len(reader.CATEGORIES))
    hues = reader.assign([row["feature"] for row in leading])
    maxima = {row["feature"]: abs(row["strongest"] / row["of_max"]) for row in leading if row["of_max"]}
    text, legend = st.columns([1.85, 1], gap="large")
    with text:
        aside = f"tokens {begin - doc['tok_lo'] + 1:,} to {where['hi'] - doc['tok_lo']:,} of {doc['tok_hi'] - doc['tok_lo']:,}"
        with section(str(doc["source"]), aside, query="app_read.active", **subject.address, **where, each=ON_HOVER):
            tokens = data.rows("app_read.text", corpus=subject.corpus_id, **where)
            active = subject.ask("app_read.active", **where, each=ON_HOVER)
            chosen = subject.ask("app_read.of", **where, features=list(maxima))
            st.html(reader.passage(tokens, active, chosen, hues, maxima, subject.link, focus))
            st.html(_steps(subject, doc, where["lo"], where["hi"]))
    with legend, section("Standing out here", "hues of the text", query="app_read.leading", **subject.address, **where,
                         dense=DENSE, limit=len(reader.CATEGORIES)):  # fmt: skip
        st.html(reader.legend(leading, hues, subject.link))
        st.html(blocks.note("Hover over a token for everything that fires on it. Dense features have no hue."))


def _steps(subject: Subject, doc: data.Row, lo: int, hi: int) -> str:
    def address(begin: int) -> str:
        return links.href("read", **subject.address, doc=doc["doc"], at=begin + PASSAGE // 3)

    before = address(max(doc["tok_lo"], lo - PASSAGE)) if lo > doc["tok_lo"] else None
    after = address(hi) if hi < doc["tok_hi"] else None
    steps = blocks.step(before, "earlier", "ArrowLeft", "\u2190") + blocks.step(after, "later", "ArrowRight", "\u2192")
    return f'<nav class="steps" aria-label="Through {escape(str(doc["source"]))}">{steps}</nav>'
