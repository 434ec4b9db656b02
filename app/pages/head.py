"""One head: what it attends to, on which text, and what every method keeps of it."""

from __future__ import annotations

import streamlit as st

from sparse_rep.app import data, links, profiles
from sparse_rep.app.charts.head import arcs, block_map, coarser, curves, distances
from sparse_rep.app.choices import one_of
from sparse_rep.app.components import blocks, head_blocks
from sparse_rep.app.components.blocks import Figure
from sparse_rep.app.components.token_view import token_view
from sparse_rep.app.data import Row
from sparse_rep.app.profiles import Profile
from sparse_rep.app.widgets import chart, section
from sparse_rep.app.wording import NOTHING, count, percent, plural, shown, significant

TITLE = "Attention head"
ICON = ":material/visibility:"
ORDER = 73
PATH = "head"
SECTION = "Heads"
HELP = "One attention head: its figures, how far it looks, its map and links on text, and every method's recall."

TEXTS = 50
LINKS = 2000
"""Most links drawn."""
BLOCKS = 4096
"""Most rows of the map that are read, and most that are drawn."""
DRAWN = 256
PASSAGE = 400
"""Most tokens of the text shown at a time."""


def render() -> None:
    subject = profiles.choose()
    if subject is None:
        return
    rows = {(r["layer"], r["head"]): r for r in subject.ask("app_heads.heads")}
    layer = links.whole_number(st.query_params.get("layer"), 1 << 16)
    head = links.whole_number(st.query_params.get("head"), 1 << 16)
    if "layer" not in st.query_params and "head" not in st.query_params:
        layer, head = next(iter(rows))
    row = rows.get((layer, head)) if layer is not None and head is not None else None
    if row is None or layer is None or head is None:
        profiles.top(subject, "What does this head attend to?", PATH)
        asked = f"layer {shown(st.query_params.get('layer', '0'))}, head {shown(st.query_params.get('head', '0'))}"
        st.html(blocks.empty_state("No such head", f"This profile has no {asked}."))
        st.html(blocks.link(subject.link("heads"), "All heads"))
        return
    profiles.top(subject, f"What does head {head} of layer {layer} attend to?", PATH)
    st.html(_steps(subject, list(rows), (layer, head)) + _figures(row))
    _curves(subject, layer, head)
    _distances(subject, layer, head)
    _effects(subject, layer, head)
    _text(subject, layer, head)


def _steps(subject: Profile, order: list[tuple[int, int]], here: tuple[int, int]) -> str:
    at = order.index(here)
    before = subject.head(*order[at - 1]) if at else None
    after = subject.head(*order[at + 1]) if at + 1 < len(order) else None
    steps = blocks.step(before, "previous head", "ArrowLeft", "\u2190") + blocks.step(
        after, "next head", "ArrowRight", "\u2192"
    )
    return f'<nav class="steps" aria-label="Heads">{steps}</nav>'


def _figures(row: Row) -> str:
    chance = f"{percent(row['induction_chance'])} if spread evenly"
    items = [
        Figure(
            "Pattern",
            row["class"] or NOTHING,
            f"keeps {percent(row['class_recall'])}, {significant(row['class_margin'])} ahead",
        ),
        Figure("Sink", percent(row["sink"]), "on the first 4 keys"),
        Figure("Local", percent(row["local"]), "on the 64 nearest keys"),
        Figure("Previous", percent(row["previous"]), "on the key before"),
        Figure(
            "Induction",
            percent(row["induction"]),
            chance,
            "Mass on what came after earlier occurrences of the query's token",
        ),
        Figure(
            "Keys for 95 %",
            significant(row["keys95"]),
            f"90 %: {significant(row['keys90'])}, 99 %: {significant(row['keys99'])}",
        ),
        Figure("Entropy", significant(row["entropy"]), "nats"),
        Figure(
            "Writes",
            significant(row["write_norm"]),
            f"{percent(row['write_share'])} of its layer",
            "Mean norm added to the residual",
        ),
    ]
    if row["window"]:
        items.append(Figure("Window", count(row["window"]), "keys"))
    return blocks.figures(items)


def _curves(subject: Profile, layer: int, head: int) -> None:
    asked = {"layer": layer, "head": head}
    rows = [r for r in subject.ask("app_heads.curves", **asked) if r["recall_mean"] is not None]
    if not rows:
        return
    words = {"recall_mean": "recall", "out_err": "output error", "recall_rest": "recall beyond the first 4 keys"}
    with section("What methods keep", "over density", query="app_heads.curves", **subject.asked(**asked)):
        value = one_of("Figure", list(words), "curve", words)
        chart(curves(rows, value, words[value]), alt=f"{words[value]} against density, one line a method")
        drawer = st.expander("Figures", icon=":material/list:", key="figures", on_change="rerun")
        if drawer.open:
            drawer.html(head_blocks.of_head(rows))


def _distances(subject: Profile, layer: int, head: int) -> None:
    asked = {"layer": layer, "head": head}
    rows = subject.ask("app_heads.distances", **asked)
    if rows:
        with section("How far it looks", "bins that double", query="app_heads.distances", **subject.asked(**asked)):
            chart(distances(rows), alt="Attention by distance from query to key")


def _text(subject: Profile, layer: int, head: int) -> None:
    known = [r["tok_lo"] for r in subject.ask("app_heads.texts", layer=layer, head=head, limit=TEXTS)]
    if not known:
        return
    names = {str(lo): f"text from token {lo:,}" for lo in known}
    text = int(one_of("Text", list(names), "text", names))
    asked = {"layer": layer, "head": head, "text": text}
    rows = subject.ask("app_heads.map", limit=BLOCKS, **asked)
    if rows:
        drawn = coarser(rows, DRAWN)
        aside = f"blocks of {count(drawn[0]['block'])} tokens; colour is the root of the mass"
        with section("Map", aside, query="app_heads.map", **subject.asked(limit=BLOCKS, **asked)):
            chart(block_map(drawn), alt="Mean attention of blocks of queries to blocks of keys")
            if len(drawn) < len(rows):
                st.html(blocks.note(f"Kept in blocks of {rows[0]['block']}; drawn coarser, at most {DRAWN} to a side."))
    _links(subject, asked)


def _links(subject: Profile, asked: dict[str, int]) -> None:
    rows = subject.ask("app_heads.links", limit=LINKS, **asked)
    if not rows:
        return
    queries = list(dict.fromkeys(r["tok"] for r in rows))
    lo, hi = asked["text"], asked["text"] + subject.length
    tokens = data.rows("app_read.text", corpus=subject.corpus_id, lo=lo, hi=hi)
    words = {t["tok"]: t["text"] for t in tokens}
    aside = f"{plural(len(queries), 'query', 'queries')} kept" + (
        f"; the first {count(LINKS)} links" if len(rows) == LINKS else ""
    )
    with section("On the text", aside, query="app_heads.links", **subject.asked(limit=LINKS, **asked)):
        chart(arcs(rows, words, lo), alt="Lines from queries to their strongest keys along the text")
        names = {str(q): f"query at {q - lo:,}: {shown(words.get(q))}" for q in reversed(queries)}
        query = int(one_of("Query", list(names), "at", names))
        mass = {r["key_tok"]: r["mass"] for r in rows if r["tok"] == query}
        begin = lo if len(tokens) <= PASSAGE else max(lo, query - PASSAGE * 3 // 4)
        passage = [t for t in tokens if begin <= t["tok"] < begin + PASSAGE]
        st.html(
            token_view(
                [t["text"] for t in passage],
                [mass.get(t["tok"], 0.0) for t in passage],
                [_tip(t["tok"], mass, query, queries) for t in passage],
                links=[subject.link(PATH, at=t["tok"], **asked) if t["tok"] in queries else None for t in passage],
                scale=1.0,
                focus=next((i for i, t in enumerate(passage) if t["tok"] == query), None),
                breaks=True,
            )
        )
        st.html(blocks.note(_said(mass, passage)))


def _said(mass: dict[int | None, float], passage: list[Row]) -> str:
    here = {t["tok"] for t in passage}
    outside = sum(m for tok, m in mass.items() if tok is not None and tok not in here)
    said = "Underlined: the query; lit: its strongest keys. Linked tokens are other queries that were kept."
    if None in mass:
        said += f" BOS takes {percent(mass[None])}."
    if outside:
        said += f" Keys outside this passage of {count(len(passage))} tokens take {percent(outside)}."
    return said


def _tip(tok: int, mass: dict[int | None, float], query: int, queries: list[int]) -> str:
    lines = [f"{percent(mass[tok])} of the query's attention, {query - tok} back"] if tok in mass else []
    if tok in queries and tok != query:
        lines.append("a query: follow to see where it looks")
    return "\n".join(lines)


def _effects(subject: Profile, layer: int, head: int) -> None:
    rows = subject.ask("app_heads.effects", layer=layer, head=head)
    if rows:
        asked = subject.asked(layer=layer, head=head)
        with section("On the loss", "a method in place of attention", query="app_heads.effects", **asked):
            st.html(head_blocks.effects(rows))
