"""What sparsity costs."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from sparse_rep.app.charts.figure import Row, figure
from sparse_rep.app.charts.palette import SERIES
from sparse_rep.app.wording import significant

SYMBOLS = ("circle", "square", "diamond", "cross", "triangle-up", "star", "x")


TICKS = [2**i for i in range(15)]


def tradeoff(rows: Sequence[Row], metric: str, words: str) -> go.Figure:
    """One line an architecture: a metric against L0 on a logarithmic axis.

    rows: dictionary_id, kind, l0 and the metric; one a dictionary. Colour and symbol both tell architectures apart.
    """
    kinds = sorted({str(row["kind"]) for row in rows})
    traces = []
    for i, kind in enumerate(kinds):
        mine = sorted((row for row in rows if str(row["kind"]) == kind), key=lambda row: row["l0"])
        colour = SERIES[i % len(SERIES)]
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": kind.replace("_", " "),
                "x": [row["l0"] for row in mine],
                "y": [row[metric] for row in mine],
                "line": {"width": 1.5, "color": colour},
                "marker": {"size": 8, "color": colour, "symbol": SYMBOLS[i % len(SYMBOLS)]},
                "customdata": [
                    [row["dictionary_id"], significant(row["l0"]), significant(row[metric], 4)] for row in mine
                ],
                "hovertemplate": "%{customdata[0]}<br>L0 %{customdata[1]}: %{customdata[2]}<extra></extra>",
            }
        )
    return figure(
        traces,
        x="L0: active latents a token (log scale)",
        y=words,
        height=340,
        showlegend=True,
        xaxis={"type": "log", "tickvals": TICKS, "ticktext": [f"{tick:,}" for tick in TICKS]},
    )
