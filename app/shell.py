"""What surrounds every page: navigation over the page modules found, the style sheet, the script, and one way to fail."""

from __future__ import annotations

import importlib
import pkgutil
from collections import defaultdict
from collections.abc import Callable
from functools import cache, partial
from importlib.resources import files
from types import ModuleType
from typing import Any

import streamlit as st
from streamlit.components import v2 as components

from sparse_rep.app import data, pages
from sparse_rep.app.components.blocks import empty_state
from sparse_rep.app.components.stylesheet import stylesheet
from sparse_rep.errors import SparseRepError

MARK = '<g fill="#8b98a7" fill-opacity=".45">{dots}</g><g fill="#e07b1a">{lit}</g>'
LOGO = """<svg xmlns="http://www.w3.org/2000/svg" width="300" height="64" viewBox="0 0 300 64">{mark}
<text x="70" y="42" font-family="Source Sans, Source Sans Pro, Helvetica, Arial, sans-serif" font-size="31" font-weight="650"
 letter-spacing="-.5" fill="#6b7a8c">sparse-rep</text></svg>"""
# Streamlit fetches its icon font's favicons from the internet; a drawing of our own travels with the page.
FAVICON = """<svg xmlns="http://www.w3.org/2000/svg" width="64" height="64" viewBox="0 0 64 64">{mark}</svg>"""


@cache
def page_modules() -> tuple[ModuleType, ...]:
    """The modules of app/pages/, by their ORDER."""
    found = [importlib.import_module(f"{pages.__name__}.{info.name}") for info in pkgutil.iter_modules(pages.__path__)]
    return tuple(sorted(found, key=lambda module: module.ORDER))


def run() -> None:
    """Draws the page that the address names."""
    st.set_page_config(page_title="sparse-rep", page_icon=FAVICON.format(mark=_mark()), layout="wide")
    st.logo(LOGO.format(mark=_mark()), size="large")
    sections: dict[str, list[Any]] = defaultdict(list)
    for module in page_modules():
        page = st.Page(
            partial(draw, module),
            title=module.TITLE,
            icon=module.ICON,
            url_path=module.PATH or None,
            help=module.HELP,
            default=not module.PATH,
        )
        sections[getattr(module, "SECTION", "")].append(page)
    st.navigation(sections, position="top").run()


def draw(module: ModuleType) -> None:
    """One page. An error of ours is shown as its one sentence; any other error stays an error."""
    st.html(stylesheet())
    try:
        data.open_store()
        module.render()
    except SparseRepError as error:
        st.html(empty_state("This cannot be shown", str(error)))
    with st.container(key="shell"):
        _script()(key="shell_script")


@cache
def _mark() -> str:
    """Twenty-five units of which few are active: what the app is about."""
    active = {(1, 0), (3, 2), (0, 3), (4, 1)}
    dots = dict.fromkeys((False, True), "")
    for x in range(5):
        for y in range(5):
            dots[(x, y) in active] += f'<circle cx="{9 + 11.5 * x}" cy="{9 + 11.5 * y}" r="4.2"/>'
    return MARK.format(dots=dots[False], lit=dots[True])


@st.cache_resource(max_entries=1, show_spinner=False)
def _script() -> Callable[..., object]:
    """Registered once a server: registering a component again would replace it under a running page."""
    script = files("sparse_rep.app").joinpath("components/shell.js").read_text("utf-8")
    return components.component("sparse_rep_shell", js=script)
