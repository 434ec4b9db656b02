"""What the pages about features are asked about: one dictionary's codes in one run, named by the address."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from html import escape
from typing import Any

import streamlit as st

from sparse_rep.app import data, links
from sparse_rep.app.components import blocks
from sparse_rep.app.limits import DENSE, RARE
from sparse_rep.app.wording import count, shown


@dataclass(frozen=True)
class Subject:
    """A row of `app_overview.subjects`."""

    run_id: str
    dictionary_id: str
    corpus_id: str
    n_latents: int
    n_dead: int
    n_rare: int
    n_dense: int
    top_feature: int | None
    kind: str | None
    model: str | None
    model_note: str | None
    hook: str | None
    d_in: int | None
    k: int | None
    n_tokens: int | None
    status: str | None
    run_kind: str | None
    updated: datetime | None

    @property
    def address(self) -> dict[str, str]:
        """The part of every address that names it."""
        return {"run": self.run_id, "dictionary": self.dictionary_id}

    def ask(self, name: str, **params: Any) -> list[data.Row]:
        """A named query about it."""
        return data.rows(name, **self.address, **params)

    def link(self, feature: int) -> str:
        return links.feature(self.run_id, self.dictionary_id, feature)

    def read(self, doc: int, tok: int) -> str:
        """Address of the reader at a token."""
        return links.href("read", **self.address, doc=doc, at=tok)

    def about(self) -> str:
        """One line of HTML: dictionary, kind, where it reads, which model, which text."""
        parts = [f"<b>{escape(self.dictionary_id)}</b>"]
        if self.kind:
            parts.append(escape(self.kind.replace("_", " ")))
        if self.hook:
            parts.append(f"at <code>{escape(self.hook)}</code>")
        if self.model:
            note = f" ({escape(self.model_note)})" if self.model_note else ""
            parts.append(f"of {escape(self.model)}{note}")
        parts.append(f"on {count(self.n_tokens)} tokens of {escape(self.corpus_id or 'an unnamed corpus')}")
        return "".join(f"<span>{part}</span>" for part in parts)


def subjects() -> list[Subject]:
    """Everything that can be asked about, latest run first."""
    return [Subject(**row) for row in data.rows("app_overview.subjects", rare=RARE, dense=DENSE)]


def choose() -> Subject | None:
    """The subject that the address names, else the one looked at last, else the latest. None after saying why not."""
    known = subjects()
    if not known:
        st.html(
            blocks.empty_state(
                "No features yet",
                "This store has no sealed run. Extract codes, then seal the run: that computes every feature page.",
                f"sparse-rep extract --store {data.store_path()} --model MODEL --text TEXT --dictionaries NAME\n"
                f"sparse-rep seal --store {data.store_path()} RUN",
            )
        )
        return None
    run, dictionary = st.query_params.get("run"), st.query_params.get("dictionary")
    if run is None and dictionary is None:
        run, dictionary = st.session_state.get("last_subject", (None, None))
    fitting = [s for s in known if dictionary in (None, s.dictionary_id) and run in (None, s.run_id)]
    if not fitting:
        _unknown(run, dictionary, known)
        return None
    st.session_state["last_subject"] = (fitting[0].run_id, fitting[0].dictionary_id)
    return fitting[0]


def picker(current: Subject) -> None:
    """A choice of subject that moves the address; absent when there is only one."""
    known = subjects()
    if len(known) < 2:
        return
    several_runs = len({s.run_id for s in known}) > 1
    names = {(s.run_id, s.dictionary_id): s.dictionary_id + (f" · {s.run_id}" if several_runs else "") for s in known}
    # The address is the truth; the widget only shows it and changes it.
    st.session_state["subject"] = (current.run_id, current.dictionary_id)
    st.selectbox(
        "Dictionary",
        list(names),
        key="subject",
        format_func=lambda pair: names.get(pair, str(pair)),
        on_change=_moved,
        label_visibility="collapsed",
        help="Dictionary and run that this page is about",
    )


def _moved() -> None:
    run, dictionary = st.session_state["subject"]
    st.query_params["run"] = run
    st.query_params["dictionary"] = dictionary
    for name in ("feature", "doc", "at"):  # numbers that mean something else there
        st.query_params.pop(name, None)


def _unknown(run: str | None, dictionary: str | None, known: list[Subject]) -> None:
    asked = " and ".join(
        f"{what} {shown(name)!r}" for what, name in (("run", run), ("dictionary", dictionary)) if name is not None
    )
    st.html(
        blocks.empty_state("Not in this store", f"The address names {asked}, which has no features here. There are:")
    )
    items = (blocks.link(s.link(s.top_feature or 0), f"{s.dictionary_id} in {s.run_id}") for s in known[:50])
    st.html(f"<ul>{''.join(f'<li>{item}</li>' for item in items)}</ul>")
