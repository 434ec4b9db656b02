"""Any question, in SQL: read-only, with a time limit, and an address that opens the same question again."""

from __future__ import annotations

from html import escape
from io import BytesIO

import pyarrow.csv
import streamlit as st

from sparse_rep.app import data, links
from sparse_rep.app.components import blocks
from sparse_rep.app.limits import MAX_ROWS
from sparse_rep.app.wording import plural, significant
from sparse_rep.store import SqlResult, StoreError
from sparse_rep.store.schema import Table

TITLE = "SQL"
ICON = ":material/terminal:"
ORDER = 90
PATH = "sql"
HELP = "Ask the store in SQL: read-only, with a time limit. The address holds the query, so a link shares it."

FIRST = "app_examples.strongest"
MACROS = (
    "Macros: top(dictionary, feature, k), acts_of(dictionary, feature), at_token(dictionary, tok), "
    "context(corpus, tok, before, after), coact(dictionary, feature, k)."
)


def render() -> None:
    limits = f"read-only · stops after {data.SQL_SECONDS} s · at most {data.SQL_ROWS:,} rows"
    st.html(blocks.heading("What else do you want to know?", f"<span>{escape(limits)}</span>"))
    editor, schema = st.columns([2.6, 1], gap="large")
    with editor:
        _examples()
        sql = _editor()
        if sql:
            _answer(sql)
    with schema:
        _schema()


def _examples() -> None:
    links_to = (blocks.link(links.href(PATH, sql=query.sql), query.note) for query in data.examples().values())
    st.html(f'<div class="tries"><span class="quiet">Try</span>{"".join(links_to)}</div>')


def _editor() -> str:
    with st.form("query", border=False, enter_to_submit=True):
        sql = st.text_area(
            "Query", data.examples()[FIRST].sql, key="sql", bind="query-params", height=220, label_visibility="collapsed",
        )  # fmt: skip
        line = st.container(horizontal=True, vertical_alignment="center")
        line.form_submit_button("Run", type="primary", icon=":material/play_arrow:", help="Or Ctrl+Enter in the query")
        line.html(
            blocks.note("The address of this page holds the query: copy it to share the question."), width="stretch"
        )
    return (sql or "").strip()


def _answer(sql: str) -> None:
    try:
        with st.spinner("Running", show_time=True):
            result = data.run(sql)
    except StoreError as error:
        st.html(blocks.alert(str(error)))
        return
    n = result.table.num_rows
    said = f"{plural(n, 'row')} in {significant(result.seconds, 2)} s"
    if result.truncated:
        said += f", cut at {n:,}"
    if n > MAX_ROWS:
        said += f", the first {MAX_ROWS:,} shown"
    with st.container(horizontal=True, vertical_alignment="center"):
        st.html(blocks.section("Answer", said), width="stretch")
        st.download_button(
            "CSV",
            lambda: _csv(result),
            "answer.csv",
            "text/csv",
            icon=":material/download:",
            type="tertiary",
            on_click="ignore",
        )
    st.dataframe(result.table.slice(0, MAX_ROWS).to_pandas(), hide_index=True, alt="Answer of the query")


def _csv(result: SqlResult) -> bytes:
    out = BytesIO()
    pyarrow.csv.write_csv(result.table, out)
    return out.getvalue()


def _schema() -> None:
    st.html(blocks.section("Tables", "every column with its meaning"))
    st.html(blocks.note(MACROS))
    with st.container(height=640, border=False):
        st.html("".join(_table(name, table) for name, table in data.schema().items()))


def _table(name: str, table: Table) -> str:
    columns = "".join(
        f"<dt><code>{escape(c.name)}</code> {escape(c.type.lower())}</dt><dd>{escape(c.note)}</dd>"
        for c in table.columns
    )
    return (
        f"<details class='schema'><summary><code>{escape(name)}</code></summary>"
        f'<p class="quiet">{escape(table.note)}</p><dl>{columns}</dl></details>'
    )
