"""How training went."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from sparse_rep.app.charts.figure import Row, figure
from sparse_rep.app.charts.palette import SERIES
from sparse_rep.app.wording import significant


def training_curves(points: Sequence[Row], metric: str) -> go.Figure:
    """One line a dictionary of one metric over optimiser steps.

    points: rows of dictionary_id, step, value, in order of step within a dictionary.
    """
    names = sorted({str(p["dictionary_id"]) for p in points})
    traces = []
    for i, name in enumerate(names):
        mine = [p for p in points if str(p["dictionary_id"]) == name]
        traces.append(
            {
                "type": "scatter",
                "mode": "lines" if len(mine) > 1 else "markers",
                "name": name,
                "x": [p["step"] for p in mine],
                "y": [p["value"] for p in mine],
                "line": {"width": 2, "color": SERIES[i % len(SERIES)]},
                "customdata": [significant(p["value"], 4) for p in mine],
                "hovertemplate": f"{name}<br>step %{{x:,}}: %{{customdata}}<extra></extra>",
            }
        )
    return figure(traces, x="step", y=metric, height=200, showlegend=len(traces) > 1)
