"""What the pages about attention heads are asked about: a profile of one model at one text length, named by the address."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Any

import streamlit as st

from sparse_rep.app import data, links
from sparse_rep.app.choices import one_of
from sparse_rep.app.components import blocks
from sparse_rep.app.wording import count, plural, shown

PAGES = (("heads", "Heads"), ("sparse", "Methods"), ("headpairs", "Compare"))
"""The pages about all heads, and what they are called in the row that leads from one to the other."""

HEAD_METRICS = {
    "sink": "mass on the first 4 keys",
    "local": "mass on the 64 nearest keys",
    "previous": "mass on the key before",
    "induction": "induction mass",
    "distance": "mean distance (tokens)",
    "entropy": "entropy (nats)",
    "keys90": "keys for 90 % of the mass",
    "keys95": "keys for 95 % of the mass",
    "keys99": "keys for 99 % of the mass",
    "learned_sink": "mass on the head's own sink",
    "class_recall": "recall of its best simple pattern",
    "class_margin": "margin of its best simple pattern",
    "write_norm": "norm of what it writes",
    "write_share": "share of its layer's writing",
}
"""Figures of a head by itself."""

SCORES = {
    "recall_mean": "recall",
    "out_err": "output error",
    "recall_p5": "recall, 5th percentile of queries",
    "rows_below_90": "queries with recall below 0.9",
    "recall_rest": "recall beyond the first 4 keys",
    "gap": "recall short of the oracle",
    "oracle": "oracle recall",
    "density": "density",
    "block_density": "density in whole 128-blocks",
    "bound": "error as a share of its bound",
}
"""Figures of a head under a method at a budget."""

PAPER = "paper"
"""Stands in addresses for each method's own settings."""


@dataclass(frozen=True)
class Profile:
    """A row of `app_heads.profiles`."""

    run_id: str
    corpus_id: str
    name: str | None
    model: str | None
    model_revision: str | None
    status: str | None
    note: str | None
    length: int
    n_texts: int
    n_layers: int
    n_heads: int
    rows: int
    layers: list[int]
    methods: list[str] | None
    budgets: list[str] | None

    @property
    def key(self) -> str:
        """Tells profiles apart: a run may hold several lengths."""
        return f"{self.run_id}:{self.length}"

    @property
    def title(self) -> str:
        return f"{self.model or 'unnamed model'} · {count(self.length)} tokens · {self.run_id}"

    def ask(self, name: str, **params: Any) -> list[data.Row]:
        """A named query about it."""
        return data.rows(name, run=self.run_id, length=self.length, **params)

    def asked(self, **params: Any) -> dict[str, Any]:
        """Parameters of `ask`, for the button that shows the SQL."""
        return {"run": self.run_id, "length": self.length, **params}

    def link(self, page: str, **params: object) -> str:
        return links.href(page, run=self.run_id, length=self.length, **params)

    def head(self, layer: int, head: int) -> str:
        """Address of a head's page."""
        return self.link("head", layer=layer, head=head)

    def shape(self) -> tuple[list[int], int]:
        """Profiles of equal shape can be compared head by head."""
        return self.layers, self.n_heads

    def about(self) -> str:
        """One line of HTML: model, heads, length, text."""
        parts = [
            f"<b>{escape(self.model or 'unnamed model')}</b>"
            + (f" at {escape(self.model_revision)}" if self.model_revision else ""),
            f"{count(self.rows)} heads in {plural(self.n_layers, 'layer')}",
            f"{plural(self.n_texts, 'text')} of {count(self.length)} tokens of {escape(self.corpus_id)}",
            f"run {escape(self.run_id)}",
        ]
        if self.note:
            parts.append(escape(self.note))
        return "".join(f"<span>{part}</span>" for part in parts)


def profiles() -> list[Profile]:
    """Every profile of heads, latest first."""
    return [Profile(**row) for row in data.rows("app_heads.profiles")]


def choose() -> Profile | None:
    """The one that the address names, else the one looked at last, else the latest. None after saying why not."""
    known = profiles()
    if not known:
        st.html(blocks.heading("What do the heads attend to?"))
        st.html(
            blocks.empty_state(
                "No heads yet",
                "This store holds no profile of attention heads. Profile a model's heads, and what sparse methods keep of them:",
                f"sparse-rep profile heads --store {data.store_path()} --model MODEL --text TEXT --length 1024",
            )
        )
        return None
    run = st.query_params.get("run")
    length = links.whole_number(st.query_params.get("length"), 1 << 31)
    fitting = [p for p in known if run in (None, p.run_id) and ("length" not in st.query_params or p.length == length)]
    if not fitting:
        st.html(blocks.heading("What do the heads attend to?"))
        of_length = f" at length {shown(st.query_params['length'])}" if "length" in st.query_params else ""
        said = f"The address names run {shown(run)!r}{of_length}, which has no heads."
        st.html(blocks.empty_state("Not in this store", said))
        items = (blocks.link(p.link("heads"), p.title) for p in known[:50])
        st.html(f"<ul>{''.join(f'<li>{item}</li>' for item in items)}</ul>")
        return None
    last = st.session_state.get("last_profile")
    found = next((p for p in fitting if run is None and p.key == last), fitting[0])
    st.session_state["last_profile"] = found.key
    return found


def top(profile: Profile, question: str, page: str, about: str = "") -> None:
    """The head of a page about `profile`: question, what it is asked of, the other pages, the choice of a run and length."""
    title, choice = st.columns([3, 1], vertical_alignment="top")
    title.html(blocks.heading(question, profile.about() + about) + _others(profile, page))
    with choice:
        _picker(profile)


def method_choice(profile: Profile, key: str = "method", first: str | None = None) -> str | None:
    """A widget for a method that was scored, bound to the address; None where none was."""
    known = list(profile.methods or [])
    if not known:
        return None
    if first in known:
        known = [first, *(m for m in known if m != first)]
    return one_of("Method", known, key)


def budget_choice(profile: Profile) -> float | None:
    """A widget for the budget, bound to the address; None stands for each method's own settings."""
    known = sorted(profile.budgets or [PAPER], key=lambda b: (b == PAPER, 0 if b == PAPER else float(b)))
    chosen = one_of("Budget", known, "budget", {b: called(None if b == PAPER else float(b)) for b in known})
    return None if chosen == PAPER else float(chosen)


def called(budget: float | None) -> str:
    """A budget in words."""
    return "paper's settings" if budget is None else f"{budget * 100:g} % of pairs"


def _others(profile: Profile, page: str) -> str:
    items = (
        f'<a href="{escape(profile.link(path))}"' + (' aria-current="page">' if path == page else ">") + f"{word}</a>"
        for path, word in PAGES
    )
    return f'<nav class="tries" aria-label="About these heads">{"".join(items)}</nav>'


def _picker(current: Profile) -> None:
    names = {p.key: p.title for p in profiles()}
    if len(names) < 2:
        return
    st.session_state["profile"] = current.key
    st.selectbox(
        "Run",
        list(names),
        key="profile",
        format_func=lambda key: names.get(str(key), str(key)),
        on_change=_moved,
        label_visibility="collapsed",
        help="Model, length and run that this page is about",
    )


def _moved() -> None:
    run, _, length = st.session_state["profile"].rpartition(":")
    st.query_params["run"], st.query_params["length"] = run, length
    for name in ("layer", "head", "other", "at"):  # numbers that mean something else there
        st.query_params.pop(name, None)
