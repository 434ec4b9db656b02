"""How training went."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from sparse_rep.app.charts.figure import Row, figure
from sparse_rep.app.charts.palette import SERIES
from sparse_rep.app.wording import significant


def training_curves(
    points: Sequence[Row], metric: str, over: str = "step", names: Sequence[str] | None = None
) -> go.Figure:
    """One line a dictionary of one metric over optimiser steps, or whatever column `over` names.

    points: rows of dictionary_id, `over`, value, in order of `over` within a dictionary. With `names` their order decides
    the colours (see `colour_of`) and there is no legend: one that serves several charts is drawn beside them.
    """
    shared = names is not None
    names = names if shared else sorted({str(p["dictionary_id"]) for p in points})
    traces = []
    for i, name in enumerate(names):
        mine = [p for p in points if str(p["dictionary_id"]) == name]
        traces.append(
            {
                "type": "scatter",
                "mode": "lines" if len(mine) > 1 else "markers",
                "name": name,
                "x": [p[over] for p in mine],
                "y": [p["value"] for p in mine],
                "line": {"width": 2, "color": colour_of(i)},
                "customdata": [significant(p["value"], 4) for p in mine],
                "hovertemplate": f"{name}<br>{over} %{{x:,}}: %{{customdata}}<extra></extra>",
            }
        )
    return figure(traces, x=over, y=metric, height=200, showlegend=not shared and len(traces) > 1)


def colour_of(i: int) -> str:
    """The colour of the i-th line."""
    return SERIES[i % len(SERIES)]
