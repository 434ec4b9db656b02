"""What the pages about routing are asked about: the routers of one run, and one of their layers, named by the address."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Any

import streamlit as st

from sparse_rep.app import data, links
from sparse_rep.app.components import blocks
from sparse_rep.app.wording import count, plural, shown

PAGES = (
    ("routing", "Load"),
    ("together", "Together"),
    ("specialisation", "Specialisation"),
    ("routed", "Text"),
    ("routers", "Compare"),
)
"""The pages about whole routers, and what they are called in the row that leads from one to the other."""
ACROSS = 512
"""Most experts side by side in a heat map."""
SAMPLED = 200_000
"""Tokens that a query of raw routes looks at, about: beyond it, at blocks spread evenly over the text."""


@dataclass(frozen=True)
class Mixture:
    """A row of `app_routing.mixtures`."""

    run_id: str
    corpus_id: str
    name: str | None
    model: str | None
    model_revision: str | None
    status: str | None
    note: str | None
    n_routers: int
    n_experts: int
    k: int
    n_tokens: int | None
    layers: list[int]
    source: str | None
    analysed: bool

    @property
    def title(self) -> str:
        """Model and revision, and the run that tells two captures of it apart."""
        revision = f" at {self.model_revision}" if self.model_revision else ""
        return f"{self.model or 'unnamed model'}{revision} · {self.run_id}"

    @property
    def stride(self) -> int:
        """Every so many-th block of tokens, for queries of raw routes."""
        return max(1, -(-(self.n_tokens or 0) // SAMPLED))

    def ask(self, name: str, **params: Any) -> list[data.Row]:
        """A named query about it."""
        return data.rows(name, run=self.run_id, **params)

    def link(self, page: str, **params: object) -> str:
        return links.href(page, run=self.run_id, **params)

    def expert(self, layer: int, expert: int) -> str:
        """Address of an expert's page."""
        return self.link("expert", layer=layer, expert=expert)

    def read(self, layer: int) -> Any:
        """Address of the routed text for a document and a token in it."""
        return lambda doc, tok: self.link("routed", layer=layer, doc=doc, at=tok)

    def drawable(self, loads: list[data.Row], cells: int) -> tuple[list[data.Row], str]:
        """Rows of `app_routing.loads` that a heat map of `cells` has room for, and in words what was cut."""
        across = min(self.n_experts, ACROSS)
        layers = set(self.layers[: max(1, cells // across)])
        kept = [row for row in loads if row["layer"] in layers and row["expert"] < across]
        cut = f"; first {across} experts of the first {plural(len(layers), 'router')}" if len(kept) < len(loads) else ""
        return kept, cut

    def about(self) -> str:
        """One line of HTML: model, routers, which text."""
        parts = [
            f"<b>{escape(self.model or 'unnamed model')}</b>"
            + (f" at {escape(self.model_revision)}" if self.model_revision else ""),
            f"{plural(self.n_routers, 'router')} of {self.n_experts} experts, {self.k} a token",
            f"on {count(self.n_tokens)} tokens of {escape(self.corpus_id)}",
            f"run {escape(self.run_id)}",
        ]
        if self.source and self.source != "hooks":
            parts.append(f"ids from {escape(self.source)}")
        return "".join(f"<span>{part}</span>" for part in parts)


def mixtures() -> list[Mixture]:
    """Every run with routing, latest first."""
    return [Mixture(**row) for row in data.rows("app_routing.mixtures")]


def choose() -> Mixture | None:
    """The one that the address names, else the one looked at last, else the latest. None after saying why not."""
    known = mixtures()
    if not known:
        st.html(blocks.heading("Where do tokens go?"))
        st.html(
            blocks.empty_state(
                "No routing yet",
                "This store holds no run of a mixture-of-experts model. Capture what its routers choose on some text:",
                f"sparse-rep profile routing --store {data.store_path()} --model MODEL --text TEXT",
            )
        )
        return None
    asked = st.query_params.get("run", st.session_state.get("last_mixture"))
    fitting = [m for m in known if asked in (None, m.run_id)]
    if not fitting and "run" in st.query_params:
        st.html(blocks.heading("Where do tokens go?"))
        st.html(
            blocks.empty_state("Not in this store", f"The address names run {shown(asked)!r}, which has no routing.")
        )
        items = (blocks.link(m.link("routing"), m.title) for m in known[:50])
        st.html(f"<ul>{''.join(f'<li>{item}</li>' for item in items)}</ul>")
        return None
    found = (fitting or known)[0]
    st.session_state["last_mixture"] = found.run_id
    return found


def head(mixture: Mixture, question: str, page: str, about: str = "") -> None:
    """The head of a page about `mixture`: question, what it is asked of, the other pages, the choice of a run."""
    title, choice = st.columns([3, 1], vertical_alignment="top")
    title.html(blocks.heading(question, mixture.about() + about) + _others(mixture, page))
    with choice:
        _picker(mixture)


def needs_analysis(mixture: Mixture) -> bool:
    """Says so where the page tables are not there yet."""
    if mixture.analysed:
        return False
    st.html(
        blocks.empty_state(
            "Not counted yet",
            f"Run {mixture.run_id} is {mixture.status}: its figures are computed when every shard is there. The same command "
            "goes on where it stopped. The text can be read already.",
        )
        + blocks.link(mixture.link("routed"), "Read the text with its experts")
    )
    return True


def layer_choice(mixture: Mixture, *, last: bool = True) -> int:
    """A widget for the layer, bound to the address; `last`: whether the last router may be chosen."""
    layers = mixture.layers if last or len(mixture.layers) < 2 else mixture.layers[:-1]
    asked = links.whole_number(st.query_params.get("layer"), 1 << 16)
    current = asked if asked in layers else layers[len(layers) // 2]
    st.session_state["layer"] = current
    label = {"label_visibility": "collapsed", "key": "layer", "on_change": _moved_layer}
    if len(layers) <= 12:
        st.segmented_control("Layer", layers, format_func=lambda n: f"layer {n}", required=True, **label)
    else:
        st.selectbox("Layer", layers, format_func=lambda n: f"layer {n}", width=140, **label)
    return current


def _moved_layer() -> None:
    st.query_params["layer"] = str(st.session_state["layer"])


def _others(mixture: Mixture, page: str) -> str:
    layer = st.query_params.get("layer")
    items = (
        f'<a href="{escape(mixture.link(path, layer=layer))}"'
        + (' aria-current="page">' if path == page else ">")
        + f"{word}</a>"
        for path, word in PAGES
    )
    return f'<nav class="tries" aria-label="About these routers">{"".join(items)}</nav>'


def _picker(current: Mixture) -> None:
    known = mixtures()
    if len(known) < 2:
        return
    names = {m.run_id: m.title for m in known}
    st.session_state["mixture"] = current.run_id
    st.selectbox(
        "Run",
        list(names),
        key="mixture",
        format_func=lambda run: names.get(str(run), str(run)),
        on_change=_moved,
        label_visibility="collapsed",
        help="Model and run that this page is about",
    )


def _moved() -> None:
    st.query_params["run"] = st.session_state["mixture"]
    for name in ("layer", "expert", "doc", "at", "other"):  # numbers that mean something else there
        st.query_params.pop(name, None)
