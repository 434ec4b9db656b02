"""One look for all charts. Text and grid colours are left to Streamlit, which sets them by the reader's theme."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go

Row = Mapping[str, Any]
"""A row of a query."""


def figure(traces: list[dict[str, Any]], *, x: str, y: str, height: int = 220, **layout: Any) -> go.Figure:
    """A figure of trace dictionaries with labelled axes, tight margins and no tool bar clutter.

    `x`, `y`: what the axis shows and its unit. Further `layout` entries go to plotly as they are.
    """
    base: dict[str, Any] = {
        "height": height,
        "margin": {"l": 8, "r": 8, "t": 8, "b": 8},
        "xaxis": {"title": {"text": x, "standoff": 6}, "automargin": True, "showgrid": False, "zeroline": False},
        "yaxis": {"title": {"text": y, "standoff": 6}, "automargin": True, "zeroline": False, "nticks": 5},
        "bargap": 0.06,
        "showlegend": False,
        "legend": {"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0, "title": {"text": ""}},
        "hoverlabel": {"align": "left"},
        "dragmode": False,
    }
    for key, value in layout.items():
        base[key] = {**base[key], **value} if isinstance(value, dict) and isinstance(base.get(key), dict) else value
    return go.Figure(data=traces, layout=base)


CONFIG = {"displayModeBar": False, "scrollZoom": False}
"""For `st.plotly_chart(config=...)`: these charts are read by hovering, not by zooming."""
