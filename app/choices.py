"""A choice of one of several that the address holds by its plain name.

Streamlit's own binding writes what the reader sees into the address; words may change, links should not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import streamlit as st

SHORT = 6
"""Up to so many stand side by side; more go into a list."""


def one_of(label: str, known: Sequence[str], key: str, words: Mapping[str, str] | None = None) -> str:
    """The one that the address names under `key`, else the first; a widget where there is something to choose.

    words: what the choices are called; a name that has no word is shown as it is.
    """
    asked = st.query_params.get(key)
    current = asked if asked is not None and asked in known else known[0]
    if len(known) < 2:
        return current
    st.session_state[key] = current
    called = words or {}

    def moved() -> None:
        st.query_params[key] = st.session_state[key]

    def name(choice: str) -> str:
        return called.get(choice, choice.replace("_", " "))

    if len(known) <= SHORT:
        st.segmented_control(
            label, known, key=key, format_func=name, on_change=moved, label_visibility="collapsed", required=True
        )
    else:
        st.selectbox(label, known, key=key, format_func=name, on_change=moved, label_visibility="collapsed")
    return current
