"""One expert: its tokens, its text, its company, and the features that fire when it is chosen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import streamlit as st

from sparse_rep.app import data, links
from sparse_rep.app import mixture as mixtures
from sparse_rep.app.choices import one_of
from sparse_rep.app.components import blocks, examples, expert_blocks
from sparse_rep.app.mixture import Mixture
from sparse_rep.app.widgets import section
from sparse_rep.app.wording import count, plural

TITLE = "Expert"
ICON = ":material/person_search:"
ORDER = 65
PATH = "expert"
SECTION = "Routing"
HELP = "One expert of a mixture: its tokens, domains, partners, features and what its absence changes."

EXAMPLES = 8
TOKENS = 12
OTHERS = 8
FEATURES = 15
LEAST_FIRED = 20
"""Tokens on which a feature must fire to be listed: fewer say too little."""
FEATURE_TOKENS = 100_000
"""Tokens on which experts and features are counted, about."""
SIDES = {"input": "read", "next": "next", "predicted": "predicted"}


@dataclass(frozen=True)
class View:
    """The expert that the page is about."""

    subject: Mixture
    layer: int
    number: int
    row: data.Row

    @property
    def address(self) -> dict[str, Any]:
        return {"run": self.subject.run_id, "layer": self.layer, "expert": self.number}

    def ask(self, name: str, **params: Any) -> list[data.Row]:
        return data.rows(name, **self.address, **params)


def render() -> None:
    subject = mixtures.choose()
    if subject is None:
        return
    asked_layer, asked = st.query_params.get("layer"), st.query_params.get("expert")
    layer = (
        links.whole_number(asked_layer, 1 << 16)
        if asked_layer is not None
        else subject.layers[len(subject.layers) // 2]
    )
    number = links.whole_number(asked, subject.n_experts - 1) if asked is not None else 0
    found = (
        data.rows("app_expert.numbers", run=subject.run_id, layer=layer, expert=number)
        if None not in (layer, number)
        else []
    )
    if layer is None or number is None or not found:
        mixtures.head(subject, "Which expert?", PATH)
        where = f"layer {asked_layer}" if asked_layer is not None else "the layer"
        known = ", ".join(map(str, subject.layers[:40]))
        st.html(
            blocks.empty_state(
                f"There is no expert {asked or 0} at {where} here",
                f"This run has routers at layers {known} with experts 0 to {subject.n_experts - 1}; the address names none.",
            )
            + blocks.link(subject.expert(subject.layers[0], 0), "Open the first expert")
        )
        return
    view = View(subject, layer, number, found[0])
    _head(view)
    st.html(expert_blocks.numbers(view.row, layer))
    if view.row["shared"]:
        st.html(blocks.note("A shared expert: every token passes it, so there is no choice to look at."))
        return
    if not view.row["n_tokens"]:
        said = f"None of {count(view.row['n_routed'])} tokens of {subject.corpus_id} chose it. It may be chosen on other text."
        st.html(blocks.empty_state(f"Expert {number} of layer {layer} got no token", said))
        return
    left, right = st.columns([1, 1.45], gap="large")
    with left:
        _labels(view)
        _tokens(view)
        _partners(view)
        _next(view)
    with right:
        _features(view)
        _examples(view)
    _ablation(view)


def _head(view: View) -> None:
    subject = view.subject
    about = f"<span>{expert_blocks.state(view.row)}</span>" if expert_blocks.state(view.row) else ""
    mixtures.head(subject, f"What is expert {view.number} of layer {view.layer} chosen for?", PATH, about)
    n, at = view.row["n_experts"], subject.layers.index(view.layer)
    below = subject.layers[at - 1] if at else None
    above = subject.layers[at + 1] if at + 1 < len(subject.layers) else None
    steps = [
        blocks.step(
            subject.expert(view.layer, view.number - 1) if view.number else None, "previous", "ArrowLeft", "\u2190"
        ),
        blocks.step(
            subject.expert(view.layer, view.number + 1) if view.number + 1 < n else None, "next", "ArrowRight", "\u2192"
        ),
        blocks.step(subject.expert(below, view.number) if below is not None else None, "layer down", "[", "["),
        blocks.step(subject.expert(above, view.number) if above is not None else None, "layer up", "]", "]"),
    ]
    st.html(f'<nav class="steps wide" aria-label="Other experts">{"".join(steps)}</nav>')


def _labels(view: View) -> None:
    known = [str(r["labelling"]) for r in view.subject.ask("app_routing.labellings")]
    for labelling in (name for name in known if name != "position"):
        asked = {"labelling": labelling, "limit": TOKENS}
        rows = view.ask("app_expert.labels", **asked)
        aside = "share of the label's tokens"
        with section(f"By {labelling}", aside, query="app_expert.labels", **view.address, **asked):
            st.html(expert_blocks.labels(rows, labelling))


def _tokens(view: View) -> None:
    sides = [str(row["side"]) for row in view.subject.ask("app_routing.sides")]
    if not sides:
        return
    head = st.container()
    side = one_of("Token", sides, "side", SIDES)
    asked = {"side": side, "limit": TOKENS}
    rows = view.ask("app_expert.tokens", **asked)
    with head:
        aside = "share of a token's occurrences that choose it; at least 10"
        section("Tokens", aside, query="app_expert.tokens", **view.address, **asked)
    st.html(expert_blocks.tokens(rows) if rows else blocks.note("No token that occurs ten times chose it."))


def _partners(view: View) -> None:
    rows = view.ask("app_expert.partners", limit=OTHERS)
    if not rows:
        return
    with section(
        "Chosen together with", "highest lift first", query="app_expert.partners", **view.address, limit=OTHERS
    ):
        st.html(
            expert_blocks.others(
                rows, "other", lambda r: view.subject.expert(view.layer, r["other"]), "p_other_given_expert"
            )
        )


def _next(view: View) -> None:
    rows = view.ask("app_expert.next", limit=OTHERS)
    if not rows:
        return
    title = f"Next first choice, layer {rows[0]['next_layer']}"
    with section(title, "of tokens whose first choice it is", query="app_expert.next", **view.address, limit=OTHERS):
        st.html(
            expert_blocks.others(
                rows, "next_expert", lambda r: view.subject.expert(r["next_layer"], r["next_expert"]), "p"
            )
        )


@st.fragment
def _features(view: View) -> None:
    known = data.rows("app_expert.dictionaries", corpus=view.subject.corpus_id)
    if not known:
        with section("Features that fire when it is chosen"):
            said = "No sealed run encoded the same tokens with a dictionary. Extract codes of the same text and seal the run: "
            st.html(blocks.note(said + "then the features that go with this expert stand here."))
        return
    head = st.container()
    names = [(str(row["run_id"]), str(row["dictionary_id"])) for row in known]
    run, dictionary = names[0]
    if len(names) > 1:
        run, dictionary = st.selectbox(
            "Dictionary", names, key="expert_dictionary", format_func=lambda pair: f"{pair[1]} · {pair[0]}",
            label_visibility="collapsed", persist_state="session",
        )  # fmt: skip
    stride = max(1, -(-(view.subject.n_tokens or 0) // FEATURE_TOKENS))
    counted = {"stride": stride, "least": LEAST_FIRED, "limit": FEATURES}
    asked = {**view.address, "acts_run": run, "dictionary": dictionary, **counted}
    with st.spinner("Counting features on this expert's tokens"):
        rows = data.rows("routing.features", **asked)
    n = f"; n = {count(rows[0]['n_tokens'])} tokens" if rows else ""
    sampled = f", one block of 256 in {stride}" if stride > 1 else ""
    with head:
        aside = f"of {dictionary}; most telling first{n}{sampled}"
        section("Features that fire when it is chosen", aside, query="routing.features", **asked)
    if not rows:
        st.html(
            blocks.note(f"No feature fires more often with this expert than without, on {LEAST_FIRED} tokens or more.")
        )
        return
    numbers = [row["feature"] for row in rows]
    about = data.rows("app_expert.described", run=run, dictionary=dictionary, features=numbers)
    described = {row["feature"]: row["top_tokens"] for row in about}
    st.html(expert_blocks.features(rows, lambda feature: links.feature(run, dictionary, feature), described))


def _examples(view: View) -> None:
    subject = view.subject
    asked = {"corpus": subject.corpus_id, "stride": subject.stride, "limit": EXAMPLES}
    rows = view.ask("app_expert.examples", **asked)
    width = examples.WIDTHS["Short"]
    wanted = {
        "toks": sorted(r["tok"] for r in rows),
        "before": width.before,
        "after": width.after,
        "corpus": subject.corpus_id,
    }
    weighed = all(r["act"] is not None for r in rows)
    shown = [r if r["act"] is not None else {**r, "act": 1.0} for r in rows]
    sampled = f"; from every {subject.stride}th block of 256 tokens" if subject.stride > 1 else ""
    said = f"{plural(len(rows), 'document')}, one token of each{sampled}"
    with section(
        "Where it has most weight" if weighed else "Where it is chosen",
        said,
        query="app_expert.contexts",
        **view.address,
        **wanted,
    ):
        group = examples.Group(
            "Routing weight" if weighed else "Chosen", "colour: weight of this expert on the token", None, shown
        )
        scale = max((r["act"] for r in shown), default=1.0)
        html, _ = examples.examples_html(
            [group], view.ask("app_expert.contexts", **wanted), scale, width, subject.read(view.layer)
        )
        st.html(html or blocks.note("The text of this corpus is not in the store, so there are no examples to show."))


def _ablation(view: View) -> None:
    rows = view.ask("app_expert.ablation")
    with section(
        "What its absence changes", "loss with its weight set to 0", query="app_expert.ablation", **view.address
    ):
        if not rows:
            verb = f"sparse-rep profile ablation --store {data.store_path()} --model {view.subject.model or 'MODEL'} --text TEXT"
            st.html(blocks.note(f"Not measured yet. This measures the model without its experts: {verb}"))
            return
        loss, moved = st.columns([1, 1.2], gap="large")
        loss.html(expert_blocks.ablation(rows))
        asked = {"ablation": rows[0]["run_id"], "layer": view.layer, "expert": view.number, "limit": OTHERS}
        features = data.rows("app_expert.ablated_features", **asked)
        if features:
            moved.html(expert_blocks.moved(features))
