"""Compare: two profiles side by side, and head against head where the models have the same shape."""

from __future__ import annotations

from typing import Any

import streamlit as st

from sparse_rep.app import profiles
from sparse_rep.app.charts.heads import against, by_head, classes
from sparse_rep.app.choices import one_of
from sparse_rep.app.components import blocks
from sparse_rep.app.pages.heads import CELLS, DOTS, with_scores
from sparse_rep.app.profiles import Profile
from sparse_rep.app.widgets import chart, section
from sparse_rep.app.wording import count, shown

TITLE = "Compare heads"
ICON = ":material/compare:"
ORDER = 72
PATH = "headpairs"
SECTION = "Heads"
HELP = "The heads of two models, or of one model at two text lengths, by the same figure."


def render() -> None:
    subject = profiles.choose()
    if subject is None:
        return
    profiles.top(subject, "Do two models, or two lengths, have the same heads?", PATH)
    others = {p.key: p for p in profiles.profiles() if p.key != subject.key}
    if not others:
        said = "This store holds one profile. Profile another model, or this one at another length:"
        command = f"sparse-rep profile heads --model {subject.model or 'MODEL'} --length {2 * subject.length}"
        st.html(blocks.empty_state("Nothing to compare with", said, command))
        return
    if st.query_params.get("other", next(iter(others))) not in others:
        said = f"The address names {shown(st.query_params['other'])!r}, which is no other profile of this store."
        st.html(blocks.empty_state("Cannot be compared", said))
        return
    alike = [key for key, p in others.items() if p.shape() == subject.shape()]
    order = [*alike, *(key for key in others if key not in alike)]
    other = others[one_of("Compared with", order, "other", {key: p.title for key, p in others.items()})]
    with st.container(horizontal=True, vertical_alignment="bottom"):
        both = [m for m in subject.methods or [] if m in (other.methods or [])]
        method = one_of("Method", both, "method") if both else None
        budget = profiles.budget_choice(subject) if method else None
    sides = [with_scores(p, p.ask("app_heads.heads"), method, budget) for p in (subject, other)]
    known = {name: words for name, words in sides[0][1].items() if name in sides[1][1]}
    metric = one_of("Figure", list(known), "metric", known)
    if subject.model == other.model and subject.length == other.length and subject.corpus_id != other.corpus_id:
        st.html(blocks.note("The same model on two texts: what differs is the text's doing."))
    for column, p, (rows, _) in zip(st.columns(2, gap="large"), (subject, other), sides, strict=True):
        kept = rows[: max(1, CELLS // p.n_heads) * p.n_heads]
        with (
            column,
            section(p.title, f"{count(len(kept))} of {count(len(rows))} heads", query="app_heads.heads", **p.asked()),
        ):
            chart(by_head(kept, metric, known[metric]), alt=f"Heat map of heads of {p.title}: {known[metric]}")
            chart(classes(_classes(rows)), alt=f"Pattern classes of {p.title}")
    _heads(subject, other, sides[0][0], sides[1][0], metric, known[metric])


def _short(profile: Profile, other: Profile) -> str:
    """What tells a profile from the other, in a few words: it stands along an axis."""
    if profile.model != other.model:
        return str(profile.model)
    return f"{count(profile.length)} tokens" if profile.length != other.length else profile.run_id


def _classes(rows: list[dict[str, Any]]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for r in rows:
        counts[r["class"]] = counts.get(r["class"], 0) + 1
    return counts


def _heads(
    subject: Profile, other: Profile, a: list[dict[str, Any]], b: list[dict[str, Any]], metric: str, words: str
) -> None:
    if subject.shape() != other.shape():
        said = "These models differ in layers or heads, so a head's number means nothing across them: no dot a head."
        st.html(blocks.note(said))
        return
    there = {(r["layer"], r["head"]): r[metric] for r in b}
    dots = [
        {"layer": r["layer"], "head": r["head"], "class": r["class"], "x": r[metric], "y": there[at]}
        for r in a
        if r[metric] is not None and there.get(at := (r["layer"], r["head"])) is not None
    ][:DOTS]
    if not dots:
        return
    same = sum(x["class"] == y["class"] for x, y in zip(a, b, strict=True))
    with section("Head against head", f"{count(same)} of {count(len(a))} heads have the same pattern class in both"):
        labels = (f"{words}: {_short(p, other if p is subject else subject)}" for p in (subject, other))
        chart(against(dots, *labels), alt=f"{words} of {len(dots)} heads in both profiles")
        if subject.model != other.model:
            said = "The models have different names: only checkpoints of one training share their heads' numbers."
            st.html(blocks.note(said))
