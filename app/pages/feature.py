"""One feature: when it fires, how strongly, what it does and what is like it."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from random import randrange
from typing import Any

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from sparse_rep.app import data, links
from sparse_rep.app.charts.activations import activation_histogram
from sparse_rep.app.charts.domains import domain_densities
from sparse_rep.app.components import blocks, examples
from sparse_rep.app.components import feature_blocks as parts
from sparse_rep.app.subject import Subject, choose, picker
from sparse_rep.app.widgets import chart, section, sql_button
from sparse_rep.app.wording import count, percent, plural, size

TITLE = "Feature"
ICON = ":material/lens_blur:"
ORDER = 30
PATH = "feature"
HELP = "One feature of a dictionary: examples, activations, tokens, logits and the features like it."

VIEWS = {
    "Summary": (6, 2),
    "Strongest": (20, 0),
    "Every interval": (0, 5),
}
"""Examples shown: how many of the strongest, how many at random from each interval."""
N_TOKENS = 12
N_DOMAINS = 12
N_OTHERS = 10


def render() -> None:
    subject = choose()
    if subject is None:
        return
    asked = st.query_params.get("feature")
    number = links.whole_number(asked, subject.n_latents - 1) if asked is not None else subject.top_feature or 0
    if number is None:
        st.html(blocks.heading("Which feature?", subject.about()))
        st.html(
            blocks.empty_state(
                f"There is no feature {asked!r} here",
                f"{subject.dictionary_id} has features 0 to {subject.n_latents - 1:,}; the address names none of them.",
            )
            + blocks.link(subject.link(subject.top_feature or 0), "Open its strongest feature")
        )
        return
    view = View(subject, number, subject.ask("app_feature.numbers", feature=number)[0])
    tokens = view.ask("app_feature.tokens")
    _head(view, tokens)
    if view.row["dead"]:
        _dead(view)
    else:
        left, right = st.columns([1, 1.85], gap="large")
        with left:
            _numbers(view)
            _histogram(view)
            _logits(view)
            _tokens(view, tokens)
            _domains(view)
        with right:
            _examples(view)
        near, together = st.columns([1, 1.4], gap="large")
        with near:
            _neighbors(view)
        with together:
            _coactivation(view)
    _provenance(subject)


@dataclass(frozen=True)
class View:
    """The feature that the page is about, with its row of `features`."""

    subject: Subject
    number: int
    row: data.Row

    def ask(self, name: str, **params: Any) -> list[data.Row]:
        return self.subject.ask(name, feature=self.number, **params)

    def section(self, title: str, aside: str, query: str, **params: Any) -> DeltaGenerator:
        """A section whose SQL button shows what `ask` runs."""
        return section(title, aside, query=query, **self.subject.address, feature=self.number, **params)


def _head(view: View, tokens: list[data.Row]) -> None:
    subject, number = view.subject, view.number
    alive = data.fresh("app_feature.random", **subject.address, seed=randrange(1 << 30))
    steps = [
        blocks.step(subject.link(number - 1) if number else None, "previous", "ArrowLeft", "\u2190"),
        blocks.step(subject.link(alive[0]["feature"]) if alive else None, "random", "r", "r"),
        blocks.step(
            subject.link(number + 1) if number + 1 < subject.n_latents else None, "next", "ArrowRight", "\u2192"
        ),
    ]
    title, choice = st.columns([3, 1], vertical_alignment="top")
    about = f"{parts.badges(view.row)}{subject.about()}"
    title.html(blocks.heading(f"What makes feature {number} fire?", about) + parts.tokens_line(tokens))
    with choice.container(gap="xsmall"):
        picker(subject)
        st.html(f'<nav class="steps" aria-label="Other features">{"".join(steps)}</nav>')


@st.fragment
def _examples(view: View) -> None:
    with st.container(gap="xsmall"):
        head = st.container(horizontal=True, vertical_alignment="center", gap="small")
        head.html(blocks.section("Where it fires"), width="stretch")
        chosen = head.segmented_control(
            "Examples", list(VIEWS), default="Summary", key="examples", label_visibility="collapsed",
            persist_state="session", required=True,
        )  # fmt: skip
        context = head.segmented_control(
            "Context", list(examples.WIDTHS), default="Short", key="context", label_visibility="collapsed",
            persist_state="session", required=True,
        )  # fmt: skip
        n_top, each = VIEWS[chosen]
        width = examples.WIDTHS[context]
        groups = []
        if n_top:
            groups.append(examples.strongest(view.ask("app_feature.top", limit=n_top)))
        if each:
            groups += examples.intervals(view.ask("app_feature.sample", each=each))
        wanted = {
            "toks": sorted({example["tok"] for group in groups for example in group.examples}),
            "before": width.before,
            "after": width.after,
            "corpus": view.subject.corpus_id,
        }
        html, left_out = examples.examples_html(
            groups, view.ask("app_feature.contexts", **wanted), view.row["max_act"], width, view.subject.read
        )
        st.html(html or blocks.note("The text of this corpus is not in the store, so there are no examples to show."))
        foot = st.container(horizontal=True, vertical_alignment="center", gap="small")
        said = "Full colour is the feature's maximum; the underlined token is the one counted."
        if left_out:
            said += (
                f" {plural(left_out, 'example')} left out to keep the page light: choose a shorter context to see all."
            )
        foot.html(blocks.note(said), width="stretch")
        with foot:
            sql_button("app_feature.contexts", **view.subject.address, feature=view.number, **wanted)


def _numbers(view: View) -> None:
    corpus = view.subject.corpus_id
    n_docs = data.rows("app_feature.spread", corpus=corpus)[0]["n_docs"] if corpus else None
    with view.section("How much", "", "app_feature.numbers"):
        st.html(parts.numbers(view.row, n_docs, view.subject.n_latents))


def _histogram(view: View) -> None:
    bins = view.ask("app_feature.hist")
    if not bins:
        return
    edges = [view.row["max_act"] * i / 10 for i in range(1, 10)]
    with view.section("How strongly", f"n = {count(view.row['n_active'])} tokens", "app_feature.hist"):
        chart(
            activation_histogram(bins, edges),
            alt=f"Histogram of the activations of feature {view.number} on a log scale",
        )


def _logits(view: View) -> None:
    rows = view.ask("app_feature.logits")
    with view.section("Output logits", "direct path", "app_feature.logits"):
        if not rows:
            st.html(blocks.note("None were computed for this dictionary."))
            return
        search = parts.search_link(view.subject.run_id, view.subject.dictionary_id)
        st.html(f'<div class="pair">{parts.logits(rows, 1, search)}{parts.logits(rows, -1, search)}</div>')


def _tokens(view: View, tokens: list[data.Row]) -> None:
    shown = tokens[:N_TOKENS]
    with view.section("Token types", f"{len(shown)} most frequent", "app_feature.tokens"):
        st.html(parts.token_types(shown, parts.search_link(view.subject.run_id, view.subject.dictionary_id)))


def _domains(view: View) -> None:
    rows = view.ask("app_feature.by_domain")
    if len(rows) < 2:
        return
    cut = f", densest {N_DOMAINS} of {len(rows)}" if len(rows) > N_DOMAINS else ""
    aside = f"dotted: {percent(view.row['frac_nonzero'])} over all text{cut}"
    with view.section("Domains", aside, "app_feature.by_domain"):
        figure = domain_densities(rows[:N_DOMAINS], view.row["frac_nonzero"])
        chart(figure, alt=f"Density of feature {view.number} by domain")


def _neighbors(view: View) -> None:
    rows = view.ask("app_feature.neighbors", limit=N_OTHERS)
    with view.section("Nearest atoms", "cosine of decoder rows", "app_feature.neighbors", limit=N_OTHERS):
        st.html(
            parts.neighbors(rows, view.subject.link) if rows else blocks.note("None were computed for this dictionary.")
        )


def _coactivation(view: View) -> None:
    rows = view.ask("app_feature.coact", limit=N_OTHERS)
    counted = f"counted on {count(rows[0]['n_tokens'])} tokens" if rows else ""
    with view.section("Fires together with", counted, "app_feature.coact", limit=N_OTHERS):
        st.html(
            parts.coactivation(rows, view.subject.link)
            if rows
            else blocks.note("No other feature fires on the same tokens.")
        )


def _dead(view: View) -> None:
    subject = view.subject
    st.html(
        blocks.empty_state(
            f"Feature {view.number} never fired",
            f"Not on one of the {count(subject.n_tokens)} tokens of {subject.corpus_id}. It may fire on other text. "
            f"{plural(subject.n_dead, 'feature')} of {count(subject.n_latents)} did not fire; its atom is below.",
        )
    )
    left, right = st.columns(2, gap="large")
    with left:
        _logits(view)
    with right:
        _neighbors(view)


def _provenance(subject: Subject) -> None:
    drawer = st.expander("Where these rows come from", icon=":material/history:", key="provenance", on_change="rerun")
    if not drawer.open:
        return
    run = next((r for r in data.rows("app_overview.runs") if r["run_id"] == subject.run_id), {})
    pairs = [("Dictionary", subject.dictionary_id), ("Run", subject.run_id)]
    named = (("Config hash", "config_hash"), ("Content hash", "content_hash"), ("Code version", "code_version"))
    named += (("Kernel", "kernel"), ("Model", "model"), ("Model revision", "model_revision"), ("Text", "corpus_id"))
    pairs += [(label, str(run[key])) for label, key in named if run.get(key)]
    drawer.html(blocks.facts((label, f"<code>{escape(value)}</code>") for label, value in pairs))
    drawer.html(
        blocks.note(
            f"{count(run.get('n_rows'))} codes in {size(run.get('bytes'))}, from {count(run.get('n_tokens'))} tokens."
        )
    )
