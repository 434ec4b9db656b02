"""One feature: when it fires, how strongly, what it does and what is like it."""

from __future__ import annotations

from html import escape
from random import randrange
from typing import Any

import streamlit as st
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
    row = subject.ask("app_feature.numbers", feature=number)[0]
    tokens = subject.ask("app_feature.tokens", feature=number)
    _head(subject, number, row, tokens)
    if row["dead"]:
        _dead(subject, number)
        return
    left, right = st.columns([1, 1.9], gap="large")
    with left:
        spread = data.rows("app_feature.spread", corpus=subject.corpus_id)[0]["n_docs"] if subject.corpus_id else None
        section("How much", query="app_feature.numbers", **subject.address, feature=number)
        st.html(parts.numbers(row, spread, subject.n_latents))
        _histogram(subject, number, row)
        _logits(subject, number)
        _domains(subject, number, row)
    with right:
        _examples(subject, number, row)
        if tokens:
            section(
                "Tokens it fires on",
                f"{len(tokens)} most frequent",
                query="app_feature.tokens",
                **subject.address,
                feature=number,
            )
            st.html(parts.token_types(tokens, parts.search_link(subject.run_id, subject.dictionary_id)))
    near, together = st.columns([1, 1.5], gap="large")
    with near:
        _neighbors(subject, number)
    with together:
        _coactivation(subject, number)
    _provenance(subject, row)


def _head(subject: Subject, number: int, row: data.Row, tokens: list[data.Row]) -> None:
    steps = [blocks.link(subject.link(number - 1), "← previous", key="ArrowLeft")] if number > 0 else []
    chosen = subject.ask("app_feature.random", seed=randrange(1 << 30)) if subject.n_dead < subject.n_latents else []
    if chosen:
        steps.append(
            blocks.link(subject.link(chosen[0]["feature"]), "random", key="r", tip="Another feature that fires (key r)")
        )
    if number + 1 < subject.n_latents:
        steps.append(blocks.link(subject.link(number + 1), "next →", key="ArrowRight"))
    title, choice = st.columns([3, 1], vertical_alignment="top")
    title.html(
        blocks.heading(
            f"What makes feature {number} fire?", f"{parts.badges(row)}{subject.about()}{parts.tokens_line(tokens)}"
        )
    )
    with choice:
        picker(subject)
        st.html(f'<div class="page-head"><nav class="steps" aria-label="Other features">{"".join(steps)}</nav></div>')


@st.fragment
def _examples(subject: Subject, number: int, row: data.Row) -> None:
    head = st.container(horizontal=True, vertical_alignment="center", gap="small")
    head.html(blocks.section("Where it fires"), width="stretch")
    view = head.segmented_control(
        "Examples", list(VIEWS), default="Summary", key="examples", label_visibility="collapsed",
        persist_state="session", required=True,
    )  # fmt: skip
    context = head.segmented_control(
        "Context", list(examples.WIDTHS), default="Short", key="context", label_visibility="collapsed",
        persist_state="session", required=True,
    )  # fmt: skip
    n_top, each = VIEWS[view]
    width = examples.WIDTHS[context]
    groups = []
    if n_top:
        groups.append(examples.strongest(subject.ask("app_feature.top", feature=number, limit=n_top)))
    if each:
        groups += examples.intervals(subject.ask("app_feature.sample", feature=number, each=each))
    wanted: dict[str, Any] = {
        "toks": sorted({example["tok"] for group in groups for example in group.examples}),
        "before": width.before,
        "after": width.after,
        "corpus": subject.corpus_id,
        "feature": number,
    }
    contexts = subject.ask("app_feature.contexts", **wanted)
    html, left_out = examples.examples_html(groups, contexts, row["max_act"], width)
    st.html(html or blocks.note("The text of this corpus is not in the store, so there are no examples to show."))
    foot = st.container(horizontal=True, vertical_alignment="center", gap="small")
    said = "Darker is stronger; full colour is the feature's maximum. The underlined token is the one counted."
    if left_out:
        said += f" {plural(left_out, 'example')} left out to keep the page light: choose a shorter context to see all."
    foot.html(blocks.note(said), width="stretch")
    with foot:
        sql_button("app_feature.contexts", **subject.address, **wanted)


def _histogram(subject: Subject, number: int, row: data.Row) -> None:
    bins = subject.ask("app_feature.hist", feature=number)
    if not bins:
        return
    section(
        "How strongly",
        f"n = {count(row['n_active'])} tokens",
        query="app_feature.hist",
        **subject.address,
        feature=number,
    )
    edges = [row["max_act"] * i / 10 for i in range(1, 10)]
    chart(activation_histogram(bins, edges), alt=f"Histogram of the activations of feature {number} on a log scale")
    st.html(blocks.note("Dotted lines: the ten intervals that random examples come from."))


def _logits(subject: Subject, number: int) -> None:
    rows = subject.ask("app_feature.logits", feature=number)
    section(
        "What it writes to the output",
        "direct path, no later layers",
        query="app_feature.logits",
        **subject.address,
        feature=number,
    )
    if not rows:
        st.html(blocks.note("No logits were computed for this dictionary."))
        return
    search = parts.search_link(subject.run_id, subject.dictionary_id)
    up, down = st.columns(2, gap="small")
    up.html(parts.logits(rows, 1, search))
    down.html(parts.logits(rows, -1, search))


def _domains(subject: Subject, number: int, row: data.Row) -> None:
    rows = subject.ask("app_feature.by_domain", feature=number)
    if len(rows) < 2:
        return
    shown = rows[:12]
    aside = "share of tokens" if len(shown) == len(rows) else f"densest 12 of {len(rows)}"
    section("In which text", aside, query="app_feature.by_domain", **subject.address, feature=number)
    chart(domain_densities(shown, row["frac_nonzero"]), alt=f"Density of feature {number} by domain")
    st.html(blocks.note(f"Dotted line: {percent(row['frac_nonzero'])} over all text."))


def _neighbors(subject: Subject, number: int) -> None:
    rows = subject.ask("app_feature.neighbors", feature=number, limit=10)
    section(
        "Nearest atoms",
        "cosine of decoder rows",
        query="app_feature.neighbors",
        **subject.address,
        feature=number,
        limit=10,
    )
    if rows:
        st.html(parts.neighbors(rows, subject.link))
    else:
        st.html(blocks.note("No neighbours were computed for this dictionary."))


def _coactivation(subject: Subject, number: int) -> None:
    rows = subject.ask("app_feature.coact", feature=number, limit=12)
    counted = f"counted on {count(rows[0]['n_tokens'])} tokens" if rows else ""
    section("Fires together with", counted, query="app_feature.coact", **subject.address, feature=number, limit=12)
    if rows:
        st.html(parts.coactivation(rows, subject.link))
    else:
        st.html(blocks.note("No other feature fires on the same tokens."))


def _dead(subject: Subject, number: int) -> None:
    st.html(
        blocks.empty_state(
            f"Feature {number} never fired",
            f"Not on one of the {count(subject.n_tokens)} tokens of {subject.corpus_id}. It may fire on other text; "
            f"{plural(subject.n_dead, 'feature')} of {count(subject.n_latents)} are dead here. What its atom says is below.",
        )
    )
    left, right = st.columns(2, gap="large")
    with left:
        _logits(subject, number)
    with right:
        _neighbors(subject, number)


def _provenance(subject: Subject, row: data.Row) -> None:
    drawer = st.expander("Where these rows come from", icon=":material/history:", key="provenance", on_change="rerun")
    if not drawer.open:
        return
    run = next((r for r in data.rows("app_overview.runs") if r["run_id"] == subject.run_id), None)
    pairs = [
        ("Dictionary", f"<code>{escape(subject.dictionary_id)}</code>"),
        ("Run", f"<code>{escape(subject.run_id)}</code>"),
    ]
    if run:
        named = (("Config hash", "config_hash"), ("Content hash", "content_hash"), ("Code version", "code_version"))
        named += (("Kernel", "kernel"), ("Model", "model"), ("Model revision", "model_revision"), ("Text", "corpus_id"))
        pairs += [(label, f"<code>{escape(str(run[key]))}</code>") for label, key in named if run[key]]
        pairs.append(("Codes", f"{count(run['n_rows'])} in {size(run['bytes'])}, from {count(run['n_tokens'])} tokens"))
        pairs.append(("Updated", escape(str(run["updated"]))))
    drawer.html(blocks.facts(pairs))
