"""Load: which experts carry the tokens, layer by layer, and every figure of the routers against its null."""

from __future__ import annotations

import streamlit as st

from sparse_rep.app import mixture as mixtures
from sparse_rep.app.charts.routing import by_layer, loads
from sparse_rep.app.choices import one_of
from sparse_rep.app.components import blocks, expert_blocks
from sparse_rep.app.components.blocks import Figure
from sparse_rep.app.data import Row
from sparse_rep.app.mixture import Mixture
from sparse_rep.app.widgets import chart, section
from sparse_rep.app.wording import count, percent, plural, significant

TITLE = "Expert load"
ICON = ":material/alt_route:"
ORDER = 60
PATH = "routing"
SECTION = "Routing"
HELP = "Layer by layer, which experts of a mixture carry the tokens, against a router that picks at random."

CELLS = 8192
"""Most cells of the heat map."""
EACH = 8

METRICS = {
    "load_entropy": "evenness of load (entropy / log experts)",
    "importance_entropy": "evenness of importance (summed weight)",
    "max_over_mean": "busiest expert over the mean",
    "dead_experts": "experts without a token",
    "balance_loss": "balance loss (1 is uniform)",
    "balance_loss_chosen": "balance loss of the chosen weights",
    "router_entropy": "entropy of a token's probabilities (bits)",
    "z_loss": "z loss (nats squared)",
    "margin_mean": "margin of the last choice, mean (router score)",
    "margin_p05": "margin of the last choice, 5th percentile",
    "margin_p50": "margin of the last choice, median",
    "margin_p95": "margin of the last choice, 95th percentile",
    "repeat_first": "neighbours with the same first choice",
    "repeat_any": "choices shared by neighbours",
    "specialisation_max": "largest share of a domain on one expert",
    "mi_domain": "bits about the domain",
    "mi_position": "bits about the position",
    "mi_input_token": "bits about the token",
    "mi_next_token": "bits about the next token",
    "mi_predicted_token": "bits about the predicted token",
    "vocabulary_input": "a token's occurrences on one expert",
    "vocabulary_next": "a next token's occurrences on one expert",
    "vocabulary_predicted": "a predicted token's occurrences on one expert",
    "mi_next_layer": "bits about the next router's first choice",
}
"""What figures are called, in the order in which they are offered; a labelling of the user's own keeps its name."""


def render() -> None:
    subject = mixtures.choose()
    if subject is None:
        return
    mixtures.head(subject, "Do the experts share the work?", PATH)
    rows = subject.ask("app_routing.loads")
    if not rows:
        mixtures.needs_analysis(subject)
        return
    st.html(_figures(subject, rows))
    _loads(subject, rows)
    figures, extremes = st.columns([1, 1], gap="large")
    with figures:
        _metrics(subject)
    with (
        extremes,
        section(
            "Busiest and idlest", f"{EACH} of each, over all layers", query="app_routing.loads", run=subject.run_id
        ),
    ):
        st.html(expert_blocks.extremes(rows, subject.expert, EACH))
    _routers(subject)


def _figures(subject: Mixture, rows: list[Row]) -> str:
    dead = sum(not r["n_tokens"] for r in rows)
    hot = sum(r["of_fair"] >= expert_blocks.HOT for r in rows)
    busiest = max(rows, key=lambda r: r["of_fair"])
    even = subject.ask("app_routing.metrics", metric="load_entropy")
    least = min(even, key=lambda r: r["value"]) if even else None
    items = [
        Figure("Experts", count(len(rows)), f"{plural(subject.n_routers, 'router')}, {subject.k} chosen a token"),
        Figure("Dead", count(dead), f"{percent(dead / len(rows), 2)} of them", "No token of this text chose them"),
        Figure(
            "Hot",
            count(hot),
            f"{expert_blocks.HOT:g} times fair or more",
            "Experts with many more tokens than a fair share",
        ),
        Figure(
            "Busiest",
            f"{significant(busiest['of_fair'])} \u00d7 fair",
            f"layer {busiest['layer']}, expert {busiest['expert']}",
        ),
    ]
    if least is not None:
        tip = "Entropy of the loads over log experts: 100 % when all are equal"
        items.append(Figure("Least even", percent(least["value"]), f"layer {least['layer']}", tip))
    return blocks.figures(items)


def _loads(subject: Mixture, rows: list[Row]) -> None:
    kept, cut = subject.drawable(rows, CELLS)
    aside = f"load over a fair share; n = {count(subject.n_tokens)} tokens, {subject.k} choices each{cut}"
    with section("Load by layer and expert", aside, query="app_routing.loads", run=subject.run_id):
        chart(loads(kept), alt="Heat map of experts by layer: load over a fair share")
        st.html(
            blocks.note("Orange: more than a fair share; blue: less. A cross: no token chose it. Hover for intervals.")
        )


def _metrics(subject: Mixture) -> None:
    known = {row["metric"]: row["unit"] for row in subject.ask("app_routing.known_metrics")}
    head = st.container()
    if not known:
        with head, section("Figures by layer"):
            mixtures.needs_analysis(subject)
        return
    order = [m for m in METRICS if m in known] + sorted(set(known) - set(METRICS))
    metric = one_of("Figure", order, "metric", METRICS)
    rows = subject.ask("app_routing.metrics", metric=metric)
    n = count(max(row["n_tokens"] for row in rows))
    with head:
        section("Figures by layer", f"n = {n} tokens", query="app_routing.metrics", run=subject.run_id, metric=metric)
    chart(by_layer(rows, known[metric]), alt=f"{_called(metric)} by layer, with 95 % intervals, and its null")
    null = next((row["null_model"] for row in rows if row["null_value"] is not None), None)
    bars = any(row["lo"] is not None for row in rows)
    said = "Bars: 95 %, from a jackknife over groups of documents. " if bars else ""
    st.html(blocks.note(said + (f"Grey: {null}." if null else "There is no null to hold it against.")))


def _called(metric: str) -> str:
    return METRICS.get(metric, metric.replace("_", " "))


def _routers(subject: Mixture) -> None:
    drawer = st.expander("How these routers score and weigh", icon=":material/info:", key="routers", on_change="rerun")
    if not drawer.open:
        return
    names = ("layer", "module", "score", "weights", "shared experts", "read by")
    body = [
        [
            blocks.text(r["layer"]),
            blocks.text(r["module"] or ""),
            blocks.text((r["score"] or "").replace("_", " ")),
            blocks.text(_weights(r)),
            blocks.text(count(r["n_shared"])),
            blocks.text(r["source"] or ""),
        ]
        for r in subject.ask("app_routing.routers")
    ]
    drawer.html(blocks.table([blocks.Column(name) for name in names], body, caption="Routers of the run"))


def _weights(router: Row) -> str:
    scaled = f", \u00d7 {significant(router['scale'])}" if router["scale"] not in (None, 1) else ""
    return ("sum to 1" if router["renormalised"] else "as scored") + scaled
