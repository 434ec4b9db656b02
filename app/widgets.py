"""Streamlit pieces that pages share: a section's head with the SQL that reproduces it, charts in one setting."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from sparse_rep.app import data, links
from sparse_rep.app.charts.figure import CONFIG
from sparse_rep.app.components import blocks


def section(title: str, aside: str = "", *, query: str | None = None, **params: Any) -> DeltaGenerator:
    """A container under a heading; with `query`, a button that shows the query behind the view, its parameters written in."""
    body = st.container(gap="xxsmall")
    with body.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.html(blocks.section(title, aside), width="stretch")
        if query is not None:
            sql_button(query, **params)
    return body


def sql_button(query: str, **params: Any) -> None:
    """Shows the SQL of a named query, to copy or to open in the SQL page."""
    with st.popover("SQL", type="tertiary", help="The query behind this view, to copy or change"):
        sql = data.sql_of(query, **params)
        st.code(sql, language="sql", wrap_lines=True)
        st.html(blocks.link(links.href("sql", sql=sql), "Open it in the SQL page"))


def chart(figure: go.Figure, *, alt: str) -> None:
    """A plotly figure in the app's theme; `alt` says in a sentence what it shows."""
    st.plotly_chart(figure, config=CONFIG, alt=alt)
