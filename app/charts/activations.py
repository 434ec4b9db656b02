"""How strongly a feature fires when it fires."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from sparse_rep.app.charts.figure import Row, figure
from sparse_rep.app.charts.palette import MUTED, SERIES
from sparse_rep.app.wording import count, significant


def activation_histogram(bins: Sequence[Row], edges: Sequence[float]) -> go.Figure:
    """Tokens a bin of activation, on a log scale; dotted lines at `edges`, the limits of the example intervals.

    bins: rows of lo, hi (activation) and n (tokens in (lo, hi]); empty ones are not drawn, a log scale has no zero.
    """
    bins = [b for b in bins if b["n"] > 0]
    bars = {
        "type": "bar",
        "x": [(b["lo"] + b["hi"]) / 2 for b in bins],
        "width": [(b["hi"] - b["lo"]) * 0.94 for b in bins],
        "y": [b["n"] for b in bins],
        "marker": {"color": SERIES[1], "line": {"width": 0}},
        "customdata": [f"{significant(b['lo'])} to {significant(b['hi'])}<br>{count(b['n'])} tokens" for b in bins],
        "hovertemplate": "%{customdata}<extra></extra>",
    }
    line = {"type": "line", "yref": "paper", "y0": 0, "y1": 1, "opacity": 0.5}
    line["line"] = {"color": MUTED, "width": 1, "dash": "dot"}
    shapes = [line | {"x0": edge, "x1": edge} for edge in edges]
    powers = range(len(str(max((b["n"] for b in bins), default=1))))
    ticks = {"tickvals": [10**p for p in powers], "ticktext": [count(10**p) for p in powers]}
    y = {"type": "log", "nticks": None, "range": [-0.15, len(powers) - 0.1]} | ticks
    return figure([bars], x="activation", y="tokens (log)", shapes=shapes, yaxis=y, height=200)
