"""Compare: two routers, or two checkpoints of one, on the same tokens."""

from __future__ import annotations

from typing import Any

import streamlit as st

from sparse_rep.app import data
from sparse_rep.app import mixture as mixtures
from sparse_rep.app.charts.routing import agreements, loads
from sparse_rep.app.charts.routing_pairs import confusion
from sparse_rep.app.components import blocks
from sparse_rep.app.mixture import Mixture
from sparse_rep.app.widgets import chart, section
from sparse_rep.app.wording import count, shown

TITLE = "Compare routers"
ICON = ":material/compare_arrows:"
ORDER = 64
PATH = "routers"
SECTION = "Routing"
HELP = "Two routers or two checkpoints side by side on the same tokens: do they choose alike?"

LINES = 6
"""Runs drawn against one."""
CHOICES = 800_000
"""Tokens, each counted once a router, on which agreement is counted, about: a second or two."""
CELLS = 4096


def render() -> None:
    subject = mixtures.choose()
    if subject is None:
        return
    mixtures.head(subject, "Do two routers choose alike?", PATH)
    others = [m for m in mixtures.mixtures() if m.corpus_id == subject.corpus_id and m.run_id != subject.run_id]
    others.sort(key=lambda m: not _comparable(subject, m))  # checkpoints of the same model first
    if not others:
        st.html(
            blocks.empty_state(
                "Nothing to compare with",
                f"No other run routed the tokens of {subject.corpus_id}. Capture another model or checkpoint on the same "
                "text with the same tokenizer:",
                f"sparse-rep profile routing --store {data.store_path()} --model OTHER-MODEL --text TEXT",
            )
        )
        return
    other = _other(subject, others)
    if other is None:
        return
    with st.spinner("Comparing choices on the same tokens"):
        _agreement(subject, other, others)
        _side_by_side(subject, other)
        _confusion(subject, other)


def _other(subject: Mixture, others: list[Mixture]) -> Mixture | None:
    by_run = {m.run_id: m for m in others}
    asked = st.query_params.get("other", others[0].run_id)
    if asked not in by_run:
        st.html(
            blocks.empty_state(
                "Cannot be compared",
                f"The address names run {shown(asked)!r}, which has no routing of {subject.corpus_id}.",
            )
        )
        items = (blocks.link(subject.link(PATH, other=run), m.title) for run, m in by_run.items())
        st.html(f"<ul>{''.join(f'<li>{item}</li>' for item in items)}</ul>")
        return None
    st.session_state["other"] = asked
    st.selectbox(
        "Compared with",
        list(by_run),
        key="other",
        format_func=lambda run: by_run[run].title if run in by_run else run,
        on_change=_moved,
        width=460,
    )
    return by_run[asked]


def _moved() -> None:
    st.query_params["other"] = st.session_state["other"]


def _comparable(a: Mixture, b: Mixture) -> bool:
    """Whether an expert's number can mean the same expert in both: checkpoints of one training have the same shape."""
    return (a.layers, a.n_experts, a.k) == (b.layers, b.n_experts, b.k)


def _asked(subject: Mixture, other: Mixture, most: int) -> dict[str, Any]:
    """What queries of the two runs take; they look at `most` tokens, about, of documents spread evenly over the text."""
    stride = max(1, -(-min(subject.n_tokens or 0, other.n_tokens or 0) // most))
    return {"run": subject.run_id, "other": other.run_id, "corpus": subject.corpus_id, "stride": stride}


def _agreement(subject: Mixture, other: Mixture, others: list[Mixture]) -> None:
    if not _comparable(subject, other):
        said = "These routers differ in layers, experts or k, so an expert's number means nothing across them. "
        st.html(blocks.alert(said + "Agreement is left out; the first choices below need no common numbers.", "warn"))
        return
    alike = [other, *(m for m in others if m.run_id != other.run_id and _comparable(subject, m))]
    most = CHOICES // subject.n_routers
    asked = _asked(subject, other, most)
    series = {m.run_id: data.rows("routing.agreement", **_asked(subject, m, most)) for m in alike[:LINES]}
    stride = asked["stride"]
    sampled = f"; one document in {stride}" if stride > 1 else ""
    cut = f"; {LINES} of {len(alike)} runs" if len(alike) > LINES else ""
    rows = series[other.run_id]
    n = f"; n = {count(max(r['n_tokens'] for r in rows))} tokens" if rows else ""
    aside = f"share of the {subject.k} choices a token that both make{n}{sampled}{cut}"
    with section(f"Agreement with {subject.run_id}", aside, query="routing.agreement", **asked):
        if not rows:
            st.html(blocks.note("The two runs have no layer and token in common."))
            return
        chart(agreements(series), alt="Share of choices in common by layer, one line a run, and chance")
        said = "Bars: 95 %, from a jackknife over groups of documents. Dotted: routers that choose independently with these "
        said += "loads (k / experts where loads are equal). Over checkpoints of one training this is router saturation."
        if subject.model != other.model:
            said += " The models have different names: only checkpoints of one training share their experts' numbers."
        st.html(blocks.note(said))


def _side_by_side(subject: Mixture, other: Mixture) -> None:
    for column, mixture in zip(st.columns(2, gap="large"), (subject, other), strict=True):
        kept, cut = mixture.drawable(mixture.ask("app_routing.loads"), CELLS)
        aside = f"load over a fair share; n = {count(mixture.n_tokens)} tokens{cut}"
        with column, section(mixture.run_id, aside, query="app_routing.loads", run=mixture.run_id):
            chart(loads(kept), alt=f"Heat map of experts by layer of {mixture.run_id}")


def _confusion(subject: Mixture, other: Mixture) -> None:
    layer = mixtures.layer_choice(subject)
    # Models of other depths: the layer at the same share of the way through.
    at = subject.layers.index(layer) / max(len(subject.layers) - 1, 1)
    there = layer if layer in other.layers else other.layers[round(at * (len(other.layers) - 1))]
    asked = {**_asked(subject, other, mixtures.SAMPLED), "layer": layer, "other_layer": there}
    rows = data.rows("app_routing.confusion", **asked)
    n = sum(r["n"] for r in rows)
    with section("First choices against first choices", f"layer {layer} against layer {there}; n = {count(n)} tokens",
                 query="app_routing.confusion", **asked):  # fmt: skip
        if not rows:
            st.html(blocks.note("The two runs have no token in common at these layers."))
            return
        chart(
            confusion(rows, other.run_id, subject.run_id),
            alt="Heat map of first choices of the two routers on the same tokens",
        )
        st.html(
            blocks.note(
                "A row is one expert's tokens; columns follow the rows that use them most. Even rows: no relation."
            )
        )
