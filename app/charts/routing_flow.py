"""Steps from router to router as a Sankey diagram."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from sparse_rep.app.charts.figure import Row, figure
from sparse_rep.app.charts.palette import MUTED
from sparse_rep.app.charts.routing import interval
from sparse_rep.app.wording import count, percent, significant

MORE, LESS, AS_EXPECTED = "rgba(224, 123, 26, 0.55)", "rgba(42, 127, 208, 0.45)", "rgba(139, 152, 167, 0.35)"


def flow(steps: Sequence[Row]) -> go.Figure:
    """A column a router, a band a step: its width the tokens, its colour whether they are more or fewer than loads explain.

    steps: rows of `app_routing.transitions`; experts without a step among them are not drawn.
    """
    out: Counter[tuple[int, int]] = Counter()
    into: Counter[tuple[int, int]] = Counter()
    for s in steps:
        out[s["layer"], s["expert"]] += s["n"]
        into[s["next_layer"], s["next_expert"]] += s["n"]
    size = {node: max(out[node], into[node]) for node in out | into}
    nodes = sorted(size, key=lambda node: (node[0], -size[node], node[1]))
    layers = sorted({layer for layer, _ in nodes})
    number = {node: i for i, node in enumerate(nodes)}
    bands = {
        "source": [number[s["layer"], s["expert"]] for s in steps],
        "target": [number[s["next_layer"], s["next_expert"]] for s in steps],
        "value": [s["n"] for s in steps],
        "color": [colour(s) for s in steps],
        "customdata": [_said(s) for s in steps],
        "hovertemplate": "%{customdata}<extra></extra>",
    }
    most = max((sum(layer == n for layer, _ in nodes) for n in layers), default=1)
    sankey = {
        "type": "sankey", "arrangement": "fixed", "textfont": {"size": 13, "weight": 700, "shadow": "none"},
        "node": {
            "label": [str(expert) for _, expert in nodes], "pad": 8, "thickness": 12, "color": MUTED, "line": {"width": 0},
            "x": [0.001 + 0.998 * layers.index(layer) / max(len(layers) - 1, 1) for layer, _ in nodes],
            "y": _heights(nodes, size, most), "customdata": [f"layer {layer}, expert {expert}" for layer, expert in nodes],
            "hovertemplate": "%{customdata}: %{value:,} tokens in these steps<extra></extra>",
        },
        "link": bands,
    }  # fmt: skip
    drawn = figure([sankey] if steps else [], x="", y="", height=max(260, 60 + 26 * most))
    last = max(len(layers) - 1, 1)
    anchors = {0: "left", last: "right"}
    heads = [
        {
            "text": f"layer {layer}", "x": i / last, "y": 1.0, "yanchor": "bottom", "yshift": 6, "showarrow": False,
            "xref": "paper", "yref": "paper", "xanchor": anchors.get(i, "center"),
        }
        for i, layer in enumerate(layers)
    ]  # fmt: skip
    drawn.update_layout(annotations=heads, margin={"l": 8, "r": 8, "t": 30, "b": 8})
    return drawn


def _heights(nodes: list[tuple[int, int]], size: Mapping[tuple[int, int], int], most: int) -> list[float]:
    """Centres of the nodes, the largest of each column on top, in plotly's 0..1 from above."""
    columns: dict[int, float] = {}
    for layer, expert in nodes:
        columns[layer] = columns.get(layer, 0.0) + size[layer, expert]
    gap = min(0.02, 0.4 / most)
    unit = (1 - gap * most) / max(columns.values(), default=1.0)
    y, at = [], dict.fromkeys(columns, 0.0)
    for layer, expert in nodes:
        height = size[layer, expert] * unit
        y.append(min(max(at[layer] + height / 2, 0.001), 0.999))
        at[layer] += height + gap
    return y


def _said(step: Row) -> str:
    way = f"layer {step['layer']} expert {step['expert']} to layer {step['next_layer']} expert {step['next_expert']}"
    lift = interval({**step, "value": step["lift"]}, significant)
    return f"{way}<br>{count(step['n'])} tokens, {percent(step['p'])} of the expert's<br>lift {lift}"


def colour(step: Row) -> str:
    """Orange: surely more than expected; blue: surely fewer; grey: as expected, or not known."""
    if step["lo"] is not None and step["lo"] > 1:
        return MORE
    return LESS if step["hi"] is not None and step["hi"] < 1 else AS_EXPECTED
