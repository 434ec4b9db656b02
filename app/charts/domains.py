"""Where a feature fires: its density by domain."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from sparse_rep.app.charts.figure import Row, figure
from sparse_rep.app.charts.palette import MUTED, SERIES
from sparse_rep.app.wording import count, percent


def domain_densities(domains: Sequence[Row], overall: float) -> go.Figure:
    """A bar a domain, a dotted line at the density over all text.

    domains: rows of domain, n_active (tokens) and frac_nonzero (share of the domain's tokens), densest first.
    """
    rows = domains[::-1]  # plotly draws upwards
    bars = {
        "type": "bar",
        "orientation": "h",
        "y": [str(row["domain"]) for row in rows],
        "x": [row["frac_nonzero"] * 100 for row in rows],
        "text": [percent(row["frac_nonzero"]) for row in rows],
        "textposition": "auto",
        "marker": {"color": SERIES[0]},
        "customdata": [count(row["n_active"]) for row in rows],
        "hovertemplate": "%{y}: active on %{customdata} tokens, %{text} of its text<extra></extra>",
    }
    line = {"type": "line", "x0": overall * 100, "x1": overall * 100, "yref": "paper", "y0": 0, "y1": 1}
    line["line"] = {"color": MUTED, "width": 1.5, "dash": "dot"}
    x = {"ticksuffix": " %", "nticks": 4}
    return figure([bars], x="share of tokens", y="", shapes=[line], xaxis=x, height=70 + 26 * len(rows))
