"""All features of a dictionary: sorted, filtered and searched in SQL, one page of rows at a time."""

from __future__ import annotations

from typing import Any

import streamlit as st

from sparse_rep.app import data, links
from sparse_rep.app.charts.density import density_histogram
from sparse_rep.app.components import blocks
from sparse_rep.app.components.feature_table import SORTS, Order, feature_table
from sparse_rep.app.limits import DENSE, RARE
from sparse_rep.app.subject import Subject, choose, picker
from sparse_rep.app.widgets import chart, section
from sparse_rep.app.wording import count, percent, plural, shown

TITLE = "Features"
ICON = ":material/table_rows:"
ORDER = 20
PATH = "features"
HELP = "Every feature of a dictionary in a table: sort, filter, search by the token that a feature fires on."

PER_PAGE = 50
SHOW = ("all", "alive", "dead", "rare", "dense")
MEANING = f"rare: fires on less than {percent(RARE)} of tokens; dense: on more than {percent(DENSE)}; dead: never"


def render() -> None:
    subject = choose()
    if subject is None:
        return
    title, choice = st.columns([3, 1], vertical_alignment="top")
    title.html(blocks.heading("Which features does this dictionary have?", subject.about()))
    with choice:
        picker(subject)
    asked = _filters(subject)
    bins = subject.ask("app_features.density", **_common(asked))
    n_kept = sum(b["n_kept"] for b in bins)
    _density(subject, bins, asked, n_kept)
    if not n_kept:
        st.html(blocks.empty_state("No feature passes this filter", _advice(asked)))
        if asked["token"]:
            everywhere = data.sql_of("app_features.raw_token", **subject.address, token=asked["token"])
            st.html(blocks.link(links.href("sql", sql=everywhere), "Count it over all codes in the SQL page"))
        return
    _table(subject, asked, n_kept)


def _filters(subject: Subject) -> dict[str, Any]:
    """The widgets, each bound to the address; what they say."""
    domains = [row["domain"] for row in subject.ask("app_features.domains")]
    line = st.container(horizontal=True, vertical_alignment="bottom", gap="small")
    q = line.text_input(
        "Which features fire on",
        key="q",
        bind="query-params",
        placeholder="a token, e.g. import, or #42",
        width=280,
        on_change=_first_page,
    )
    show = line.segmented_control(
        "Show", SHOW, default="all", key="show", bind="query-params", required=True, help=MEANING, on_change=_first_page
    )
    domain = None
    if len(domains) > 1:
        domain = line.selectbox(
            "Prefer a domain", domains, index=None, placeholder="any", key="domain", bind="query-params", width=200,
            on_change=_first_page,
            help="Sorts by how much denser a feature is in that domain than over all text",
        )  # fmt: skip
    q = (q or "").strip()
    only = links.whole_number(q[1:], subject.n_latents - 1) if q.startswith("#") else None
    token = q if q and only is None else None
    natural = "match" if token else "domain" if domain else "density"
    sort = st.query_params.get("sort", natural)
    usable = sort in SORTS and (sort != "match" or token) and (sort != "domain" or domain)
    sort = sort if usable else natural
    descending = st.query_params.get("order", "asc" if sort == "feature" else "desc") != "asc"
    return {
        "q": q,
        "token": token,
        "only": only,
        "show": show,
        "domain": domain,
        "sort": sort,
        "descending": descending,
    }


def _first_page() -> None:
    st.session_state["page"] = 1


def _common(asked: dict[str, Any]) -> dict[str, Any]:
    return {"token": asked["token"], "only": asked["only"], "show": asked["show"], "rare": RARE, "dense": DENSE}


def _density(subject: Subject, bins: list[data.Row], asked: dict[str, Any], n_kept: int) -> None:
    dead = sum(b["n"] for b in bins if b["log_lo"] is None)
    aside = f"{count(subject.n_latents)} latents, {plural(dead, 'dead one')} not drawn, {count(n_kept)} in the filter"
    alive = [b for b in bins if b["log_lo"] is not None]
    if not alive:
        return
    with section("How often they fire", aside, query="app_features.density", **subject.address, **_common(asked)):
        chart(density_histogram(alive), alt="Histogram of how often the latents fire, all and those in the filter")


def _table(subject: Subject, asked: dict[str, Any], n_kept: int) -> None:
    pages = -(-n_kept // PER_PAGE)
    slot = st.container()
    with st.container(horizontal=True, horizontal_alignment="right"):
        page = st.pagination(pages, key="page", bind="query-params") if pages > 1 else 1
    page = min(page, pages)
    params = _common(asked) | {
        "domain": asked["domain"],
        "sort": asked["sort"],
        "direction": -1 if asked["descending"] else 1,
        "limit": PER_PAGE,
        "offset": (page - 1) * PER_PAGE,
    }
    rows = subject.ask("app_features.page", **params)

    def resort(key: str, descending: bool) -> str:
        kept = {
            "q": asked["q"] or None,
            "show": asked["show"] if asked["show"] != "all" else None,
            "domain": asked["domain"],
        }
        return links.href("features", **subject.address, **kept, sort=key, order="desc" if descending else "asc")

    first = (page - 1) * PER_PAGE + 1
    aside = f"{first:,} to {first + len(rows) - 1:,} of {n_kept:,}, by {SORTS[asked['sort']]}"
    title = f"Features that fire on {shown(asked['token'])}" if asked["token"] else "Features"
    with slot, section(title, aside, query="app_features.page", **subject.address, **params):
        order = Order(asked["sort"], asked["descending"], resort)
        st.html(feature_table(rows, subject.link, order, searched=bool(asked["token"]), domain=asked["domain"]))


def _advice(asked: dict[str, Any]) -> str:
    if asked["token"]:
        return (
            f"None of them has {shown(asked['token'])!r} among the 20 token types that it fires on most. "
            "The search compares whole tokens and ignores case and the space before."
        )
    return f"Nothing is {asked['show']} here. {MEANING[0].upper()}{MEANING[1:]}."
