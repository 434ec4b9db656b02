"""One head: what methods keep of it, how far it looks, its map, and its strongest links on a text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from sparse_rep.app.charts.figure import Row, figure
from sparse_rep.app.charts.palette import MUTED, SERIES
from sparse_rep.app.charts.routing import SEQUENTIAL
from sparse_rep.app.wording import percent, shown

SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x")
STRENGTHS = 5
STEPS = 8
"""Straight pieces of an arc."""
REFERENCE = ("random_blocks", "local_window", "oracle_tokens", "oracle_blocks")
"""Bounds, drawn grey."""


def curves(rows: Sequence[Row], value: str, label: str) -> go.Figure:
    """A line a method over density; diamonds, the oracle with the same count in every row, of keys or of blocks.

    rows: of `app_heads.curves` with figures.
    """
    traces: list[dict] = []
    names = list(dict.fromkeys(r["method"] for r in rows))
    for i, name in enumerate(n for n in names if n not in REFERENCE):
        colour, symbol = SERIES[i % len(SERIES)], SYMBOLS[i // len(SERIES) % len(SYMBOLS)]
        traces.append(_line(rows, name, value, {"color": colour, "width": 2}, {"size": 7, "symbol": symbol}))
    for i, name in enumerate(n for n in names if n in REFERENCE):
        dash = ("dash", "dashdot", "longdash", "dot")[i % 4]
        traces.append(_line(rows, name, value, {"color": MUTED, "width": 1.5, "dash": dash}, {"size": 5}))
    if value == "recall_mean":
        for kind in ("token", "block"):
            best = sorted({(r["density"], r["oracle"]) for r in rows if r["granularity"] == kind})
            if best:
                traces.append({
                    "type": "scatter", "mode": "markers", "name": f"oracle, {kind}s",
                    "x": [d for d, _ in best], "y": [o for _, o in best],
                    "marker": {"symbol": "diamond-open", "size": 6, "color": MUTED},
                    "hovertemplate": "at best %{y:.3f}<extra></extra>",
                })  # fmt: skip
    return figure(
        traces, x="density (pairs kept of those visible)", y=label, height=380, showlegend=True, hovermode="closest",
        yaxis={"rangemode": "tozero"}, xaxis={"rangemode": "tozero"},
        legend={"orientation": "v", "x": 1.01, "xanchor": "left", "y": 1, "yanchor": "top"},
    )  # fmt: skip


def _line(rows: Sequence[Row], name: str, value: str, line: dict, marker: dict) -> dict:
    mine = sorted((r for r in rows if r["method"] == name), key=lambda r: r["density"])
    return {
        "type": "scatter", "mode": "lines+markers", "name": name.replace("_", " "), "x": [r["density"] for r in mine],
        "y": [r[value] for r in mine], "line": line, "marker": marker,
        "customdata": ["paper's settings" if r["budget"] is None else f"budget {percent(r['budget'])}" for r in mine],
        "hovertemplate": f"{name}: %{{y:.3f}} at density %{{x:.3f}}<br>%{{customdata}}<extra></extra>",
    }  # fmt: skip


def distances(rows: Sequence[Row]) -> go.Figure:
    """Mass by distance from query to key, in bins that double.

    rows: of `app_heads.distances`: lo, hi, mass.
    """
    names = [str(r["lo"]) if r["hi"] - r["lo"] == 1 else f"{r['lo']:,} to {r['hi'] - 1:,}" for r in rows]
    bar = {
        "type": "bar", "x": names, "y": [r["mass"] * 100 for r in rows], "marker": {"color": SERIES[0]},
        "hovertemplate": "%{x} tokens back: %{y:.3g} % of its attention<extra></extra>",
    }  # fmt: skip
    return figure(
        [bar], x="tokens from query back to key", y="attention", yaxis={"ticksuffix": " %"}, xaxis={"type": "category"}
    )


def coarser(rows: Sequence[Row], most: int) -> list[dict[str, Any]]:
    """A map of at most so many rows: neighbouring blocks of queries averaged, of keys summed.

    rows: of `app_heads.map`, one a block of queries from the first on.
    """
    step = -(-len(rows) // most)
    found = []
    for at in range(0, len(rows), step):
        group = rows[at : at + step]
        mass = [0.0] * (at // step + 1)
        for row in group:
            for k, v in enumerate(row["mass"]):
                mass[k // step] += v / len(group)
        found.append({"block": rows[0]["block"] * step, "q_block": at // step, "mass": mass})
    return found


def block_map(rows: Sequence[Row]) -> go.Figure:
    """The block-mass map of a head on one text: a row a block of queries, a column a block of keys.

    rows: of `app_heads.map`: block (tokens), q_block, mass (a list).
    """
    size = rows[0]["block"]
    width = max(len(r["mass"]) for r in rows)
    z = [[*(v**0.5 for v in r["mass"]), *([None] * (width - len(r["mass"])))] for r in rows]
    words = [[percent(v) for v in r["mass"]] + [""] * (width - len(r["mass"])) for r in rows]
    heat = {
        "type": "heatmap", "z": z, "x": [k * size for k in range(width)], "y": [r["q_block"] * size for r in rows],
        "text": words, "colorscale": SEQUENTIAL, "zmin": 0, "zmax": 1, "showscale": False,
        "hovertemplate": "queries from %{y}, keys from %{x}: %{text}<extra></extra>",
    }  # fmt: skip
    return figure(
        [heat], x="keys (tokens from the text's start)", y="queries", height=380, yaxis={"autorange": "reversed"}
    )


def arcs(links: Sequence[Row], tokens: Mapping[int, str], lo: int) -> go.Figure:
    """A line from every query kept to its strongest keys, over the text's positions; the stronger, the bolder.

    links: of `app_heads.links`: tok, rank, key_tok, mass; tokens: text by position in the corpus; lo: the text's first token.
    """
    traces: list[dict] = []
    # A trace a strength, its lines apart by gaps: hundreds of traces would be slow to draw.
    for level in range(STRENGTHS):
        mine = [link for link in links if min(int(link["mass"] * STRENGTHS), STRENGTHS - 1) == level]
        x: list[float | None] = []
        y: list[float | None] = []
        words: list[str] = []
        for link in mine:
            query, key = link["tok"] - lo, 0 if link["key_tok"] is None else link["key_tok"] - lo
            named = "BOS" if link["key_tok"] is None else shown(tokens.get(link["key_tok"]))
            said = f"{shown(tokens.get(link['tok']))} looks at {named}<br>{percent(link['mass'])}, {query - key} back"
            x += [*(key + (query - key) * t / STEPS for t in range(STEPS + 1)), None]
            y += [*((query - key) * (1 - (2 * t / STEPS - 1) ** 2) for t in range(STEPS + 1)), None]
            words += [said] * (STEPS + 2)
        bold = (level + 0.5) / STRENGTHS
        traces.append({
            "type": "scatter", "mode": "lines", "x": x, "y": y, "text": words, "hovertemplate": "%{text}<extra></extra>",
            "line": {"color": SERIES[1], "width": 0.5 + 3.5 * bold}, "opacity": 0.2 + 0.8 * bold,
        })  # fmt: skip
    return figure(
        traces, x="tokens from the text's start", y="", height=240, hovermode="closest", yaxis={"visible": False}
    )
