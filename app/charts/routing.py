"""How routers spread their tokens: loads, figures by layer, agreement of two routers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import log2

import plotly.graph_objects as go

from sparse_rep.app.charts.figure import Row, figure
from sparse_rep.app.charts.palette import MUTED, SERIES
from sparse_rep.app.wording import count, percent, significant

BAND = "rgba(139, 152, 167, 0.28)"
GROUND = "rgba(139, 152, 167, 0.10)"
DIVERGING = [[0.0, SERIES[0]], [0.5, GROUND], [1.0, SERIES[1]]]
"""Less than expected blue, more orange; what is as expected keeps the page's own ground, in both themes."""
SEQUENTIAL = [[0.0, GROUND], [1.0, SERIES[1]]]
FLOOR = -4.0
"""log2 of the smallest ratio told apart: a sixteenth."""
CELL = 22
"""Pixels a row of a heat map."""


def loads(rows: Sequence[Row]) -> go.Figure:
    """A cell a layer and expert: load over a fair share, on a log scale; dead experts crossed out.

    rows: of `app_routing.loads`: layer, expert, n_tokens, of_fair (1 is a fair share), share of tokens, lo, hi.
    """
    layers = sorted({r["layer"] for r in rows})
    n_experts = max((r["expert"] for r in rows), default=-1) + 1
    at = {layer: i for i, layer in enumerate(layers)}
    names = [f"layer {layer}" for layer in layers]
    z: list[list[float | None]] = [[None] * n_experts for _ in layers]
    words = [[""] * n_experts for _ in layers]
    dead = []
    for r in rows:
        i, e = at[r["layer"]], r["expert"]
        z[i][e] = log_ratio(r["of_fair"]) if r["n_tokens"] else None
        said = f"{interval(r)} of tokens<br>{significant(r['of_fair'], 2)} times a fair share"
        words[i][e] = f"layer {r['layer']}, expert {e}<br>{said}"
        if not r["n_tokens"]:
            dead.append((e, names[i]))
    heat = {
        "type": "heatmap", "z": z, "x": list(range(n_experts)), "y": names, "text": words, "xgap": 1, "ygap": 1,
        "hovertemplate": "%{text}<extra></extra>", **diverging(z, "\u00d7 fair"),
    }  # fmt: skip
    cross = {
        "type": "scatter", "mode": "markers", "x": [e for e, _ in dead], "y": [name for _, name in dead],
        "marker": {"symbol": "x-thin", "size": 9, "line": {"width": 1.5, "color": MUTED}},
        "hovertemplate": "%{y}, expert %{x}: no token chose it<extra></extra>",
    }  # fmt: skip
    x = {"range": [-0.5, n_experts - 0.5], **({"dtick": 1} if n_experts <= 24 else {"nticks": 20})}
    y = {"type": "category", "nticks": 30, "showgrid": False}
    return figure([heat, cross], x="expert", y="", height=max(200, 110 + CELL * len(layers)), xaxis=x, yaxis=y)


def by_layer(rows: Sequence[Row], label: str) -> go.Figure:
    """A figure by layer with its 95 % interval, over the band of its null.

    rows: of `app_routing.metrics`: layer, value, lo, hi, null_value, null_lo, null_hi.
    """
    x = [r["layer"] for r in rows]
    traces: list[dict] = []
    null = [r for r in rows if r["null_value"] is not None]
    if null:
        nx = [r["layer"] for r in null]
        low = [r["null_lo"] if r["null_lo"] is not None else r["null_value"] for r in null]
        high = [r["null_hi"] if r["null_hi"] is not None else r["null_value"] for r in null]
        edge = {
            "type": "scatter",
            "mode": "lines",
            "x": nx,
            "line": {"width": 0},
            "hoverinfo": "skip",
            "showlegend": False,
        }
        traces += [edge | {"y": low}, edge | {"y": high, "fill": "tonexty", "fillcolor": BAND}]
        traces.append({
            "type": "scatter", "mode": "lines+markers", "name": "null", "x": nx, "y": [r["null_value"] for r in null],
            "line": {"color": MUTED, "width": 1.5, "dash": "dot"}, "marker": {"size": 4},
            "hovertemplate": "layer %{x}: null %{y:.4g}<extra></extra>",
        })  # fmt: skip
    up = [(r["hi"] - r["value"]) if r["hi"] is not None else 0 for r in rows]
    down = [(r["value"] - r["lo"]) if r["lo"] is not None else 0 for r in rows]
    traces.append({
        "type": "scatter", "mode": "lines+markers", "name": "measured", "x": x, "y": [r["value"] for r in rows],
        "error_y": {"type": "data", "array": up, "arrayminus": down, "color": SERIES[1], "thickness": 1.4, "width": 3},
        "line": {"color": SERIES[1], "width": 2}, "marker": {"size": 7},
        "customdata": [interval(r, significant) for r in rows],
        "hovertemplate": "layer %{x}: %{customdata}<extra></extra>",
    })  # fmt: skip
    return figure(
        traces, x="layer", y=label, height=250, showlegend=bool(null), xaxis={"tickvals": x[:: max(1, len(x) // 24)]}
    )


def agreements(series: Mapping[str, Sequence[Row]]) -> go.Figure:
    """Shared choices by layer, a line a router compared; dotted the chance of routers with the first one's loads.

    series: rows of `routing.agreement` by name.
    """
    traces: list[dict] = []
    for i, (name, rows) in enumerate(series.items()):
        colour = SERIES[(i + 1) % len(SERIES)]
        half = [r["half"] or 0 for r in rows]
        traces.append({
            "type": "scatter", "mode": "lines+markers", "name": name, "x": [r["layer"] for r in rows],
            "y": [r["agreement"] * 100 for r in rows],
            "error_y": {"type": "data", "array": [h * 100 for h in half], "color": colour, "thickness": 1.4, "width": 3},
            "line": {"color": colour, "width": 2}, "marker": {"size": 7},
            "customdata": [f"{interval({**r, 'share': r['agreement']})} of choices, {count(r['n_tokens'])} tokens" for r in rows],
            "hovertemplate": "layer %{x}: %{customdata}<extra></extra>",
        })  # fmt: skip
    first = next(iter(series.values()), [])
    chance = [r for r in first if r["chance"] is not None]
    traces.append({
        "type": "scatter", "mode": "lines", "name": "chance", "x": [r["layer"] for r in chance],
        "y": [r["chance"] * 100 for r in chance], "line": {"color": MUTED, "width": 1.5, "dash": "dot"},
        "hovertemplate": "layer %{x}: %{y:.3g} % by chance<extra></extra>",
    })  # fmt: skip
    axes = {
        "yaxis": {"ticksuffix": " %", "rangemode": "tozero"},
        "xaxis": {"tickvals": [r["layer"] for r in first][:: max(1, len(first) // 24)]},
    }
    return figure(traces, x="layer", y="choices in common", height=280, showlegend=True, **axes)


def interval(row: Row, write: Callable[[float | None], str] = percent) -> str:
    """`12.3 % (11.9 % to 12.8 %)`: a row's share, or its value, and lo and hi."""
    value = row["share"] if "share" in row else row["value"]
    if row["lo"] is None:
        return write(value)
    return f"{write(value)} ({write(row['lo'])} to {write(row['hi'])})"


def log_ratio(ratio: float) -> float:
    """log2 of a ratio, no lower than FLOOR: a heat map has no room for minus infinity."""
    return max(FLOOR, log2(ratio)) if ratio > 0 else FLOOR


def diverging(z: Sequence[Sequence[float | None]], title: str) -> dict:
    """Colours of a heat map of log2 ratios: symmetric about 1, as far as the largest ratio, to 2 at least and 16 at most.

    What is further off takes the end's colour; the end's label says so.
    """
    values = [v for row in z for v in row if v is not None]
    limit = min(max(1, round(max(values, default=1.0))), 4)
    ticks = [float(t) for t in range(-limit, limit + 1)]
    words = [f"{2.0**t:g}" for t in ticks]
    if min(values, default=0.0) < ticks[0]:
        words[0] = f"≤ {words[0]}"
    if max(values, default=0.0) > ticks[-1]:
        words[-1] = f"≥ {words[-1]}"
    return {"colorscale": DIVERGING, "zmin": -limit, "zmax": limit, "colorbar": bar(title, ticks, words)}


def bar(title: str, tickvals: Sequence[float], ticktext: Sequence[str]) -> dict:
    """A colour bar with these ticks."""
    return {
        "title": {"text": title, "side": "top"}, "tickvals": tickvals, "ticktext": ticktext, "thickness": 10, "outlinewidth": 0,
        "len": 1.0, "lenmode": "fraction",
    }  # fmt: skip
