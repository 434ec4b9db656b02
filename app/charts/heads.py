"""All heads of a model at once: a cell a head, a dot a head, a bar a method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from sparse_rep.app.charts.figure import Row, figure
from sparse_rep.app.charts.palette import MUTED, SERIES
from sparse_rep.app.charts.routing import CELL, SEQUENTIAL
from sparse_rep.app.wording import percent, significant

CLASSES = ("local", "sink-local", "columns", "diagonals", "blocks", "diffuse")
"""Pattern classes, in the order of their hues; the last takes the grey."""


def class_hue(name: str | None) -> str:
    """The colour of a pattern class; grey for diffuse and for none."""
    return SERIES[CLASSES.index(name)] if name in CLASSES[:-1] else MUTED


def by_head(rows: Sequence[Row], metric: str, label: str) -> go.Figure:
    """A cell a layer and head.

    rows: layer, head and the metric; a head whose metric is None stays empty.
    """
    layers = sorted({r["layer"] for r in rows})
    n_heads = max((r["head"] for r in rows), default=-1) + 1
    z: list[list[float | None]] = [[None] * n_heads for _ in layers]
    words = [[""] * n_heads for _ in layers]
    at = {layer: i for i, layer in enumerate(layers)}
    for r in rows:
        z[at[r["layer"]]][r["head"]] = r[metric]
        kind = f"<br>{r['class']}" if r.get("class") else ""
        words[at[r["layer"]]][r["head"]] = f"layer {r['layer']}, head {r['head']}<br>{significant(r[metric])}{kind}"
    heat = {
        "type": "heatmap", "z": z, "x": list(range(n_heads)), "y": [f"layer {layer}" for layer in layers], "text": words,
        "xgap": 1, "ygap": 1, "hovertemplate": "%{text}<extra></extra>", "colorscale": SEQUENTIAL,
        "colorbar": {"title": {"text": label, "side": "right"}, "thickness": 10, "outlinewidth": 0},
    }  # fmt: skip
    x = {"range": [-0.5, n_heads - 0.5], **({"dtick": 1} if n_heads <= 24 else {"nticks": 20})}
    y = {"type": "category", "nticks": 32, "showgrid": False}
    height = max(200, 110 + min(CELL, 16) * len(layers))
    return figure([heat], x="head", y="", height=height, xaxis=x, yaxis=y)


def scatter(rows: Sequence[Row], x: str, y: str, x_label: str, y_label: str) -> go.Figure:
    """A dot a head, coloured by its pattern class.

    rows: layer, head, class and the two metrics, all there.
    """
    traces = []
    for name in dict.fromkeys((*CLASSES, *(r["class"] for r in rows))):
        mine = [r for r in rows if r["class"] == name]
        if not mine:
            continue
        traces.append({
            "type": "scatter", "mode": "markers", "name": name or "no class",
            "x": [r[x] for r in mine], "y": [r[y] for r in mine],
            "marker": {"size": 7, "opacity": 0.8, "color": class_hue(name)},
            "customdata": [[r["layer"], r["head"]] for r in mine],
            "hovertemplate": "layer %{customdata[0]}, head %{customdata[1]}<br>%{x:.3g}, %{y:.3g}<extra></extra>",
        })  # fmt: skip
    return figure(traces, x=x_label, y=y_label, height=360, showlegend=True, hovermode="closest")


def against(rows: Sequence[Row], x_label: str, y_label: str) -> go.Figure:
    """A dot a head, one figure of it under two conditions; on the line they are equal.

    rows: layer, head, class, x, y.
    """
    low = min((min(r["x"], r["y"]) for r in rows), default=0.0)
    high = max((max(r["x"], r["y"]) for r in rows), default=1.0)
    base = scatter(rows, "x", "y", x_label, y_label)
    base.add_scatter(
        x=[low, high], y=[low, high], mode="lines", name="equal", hoverinfo="skip",
        line={"color": MUTED, "width": 1.2, "dash": "dot"},
    )  # fmt: skip
    return base


def methods(rows: Sequence[Row], value: str, low: str, high: str, label: str, oracle: bool) -> go.Figure:
    """Median and quartiles over heads, a row a method, by name; diamonds are each method's own oracle.

    rows: of `app_heads.methods` with figures.
    """
    names = [r["method"].replace("_", " ") for r in rows]
    up = [r[high] - r[value] for r in rows]
    down = [r[value] - r[low] for r in rows]
    words = [f"{significant(r[value])} (quartiles {significant(r[low])} to {significant(r[high])})" for r in rows]
    traces: list[dict] = [{
        "type": "scatter", "mode": "markers", "name": "method", "x": [r[value] for r in rows], "y": names,
        "error_x": {"type": "data", "array": up, "arrayminus": down, "color": SERIES[0], "thickness": 1.6, "width": 3},
        "marker": {"size": 9, "color": SERIES[0]}, "customdata": words, "hovertemplate": "%{y}: %{customdata}<extra></extra>",
    }]  # fmt: skip
    if oracle:
        traces.append({
            "type": "scatter", "mode": "markers", "name": "oracle at its count", "x": [r["oracle"] for r in rows], "y": names,
            "marker": {"symbol": "diamond-open", "size": 9, "color": MUTED},
            "hovertemplate": "%{y}: at best %{x:.3g}<extra></extra>",
        })  # fmt: skip
    y = {"type": "category", "autorange": "reversed", "nticks": len(names) + 1}
    return figure(traces, x=label, y="", height=90 + 24 * len(names), showlegend=oracle, yaxis=y)


def classes(counts: Mapping[str, int]) -> go.Figure:
    """How many heads are of each pattern class."""
    shown = {name: counts[name] for name in (*CLASSES, *counts) if name in counts}
    total = sum(shown.values())
    bar = {
        "type": "bar", "orientation": "h", "y": list(shown), "x": list(shown.values()),
        "marker": {"color": [class_hue(name) for name in shown]}, "customdata": [percent(n / total) for n in shown.values()],
        "hovertemplate": "%{y}: %{x} heads, %{customdata}<extra></extra>",
    }  # fmt: skip
    return figure(
        [bar],
        x="heads",
        y="",
        xaxis={"nticks": min(8, max(shown.values()) + 1)},
        height=90 + 26 * len(shown),
        yaxis={"type": "category", "autorange": "reversed"},
    )
