"""Experts against experts, experts against labels: heat maps, ordered so that what belongs together lies together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from sparse_rep.app.charts.figure import Row, figure
from sparse_rep.app.charts.palette import MUTED
from sparse_rep.app.charts.routing import CELL, SEQUENTIAL, bar, diverging, interval, log_ratio
from sparse_rep.app.wording import count, percent, significant


def clustered(affinity: NDArray[np.float64]) -> list[int]:
    """An order of rows in which those with much affinity (e, e), symmetric, lie side by side.

    By the Fiedler vector of the graph, part by part: the one-dimensional layout with the least squared distance between friends
    (Barnard, Pothen & Simon 1995).
    """
    n = len(affinity)
    if n < 3:
        return list(range(n))
    weight = np.maximum(affinity - np.median(affinity), 0) + 1e-9
    np.fill_diagonal(weight, 0)
    laplacian = np.diag(weight.sum(1)) - weight
    _, vectors = np.linalg.eigh(laplacian)
    order = np.argsort(vectors[:, 1], kind="stable")
    gaps = np.diff(vectors[order, 1])
    cut = int(np.argmax(gaps)) + 1
    if n > 6 and gaps.max() > 4 * max(float(np.median(gaps)), 1e-12) and 2 <= cut <= n - 2:
        parts = (order[:cut], order[cut:])
        return [int(part[i]) for part in parts for i in clustered(affinity[np.ix_(part, part)])]
    return [int(i) for i in order]


def together(rows: Sequence[Row], measure: str) -> go.Figure:
    """Experts of a layer against each other, ordered by cluster.

    rows: of `app_routing.together`. measure: lift (1 is what loads explain), share (P(column | row)), or adjacent (the share
    of joint choices whose ranks are neighbours, over the row's tokens, as OLMoE's script counts).
    """
    experts = sorted({r["expert"] for r in rows} | {r["other"] for r in rows})
    at = {e: i for i, e in enumerate(experts)}
    affinity = np.zeros((len(experts), len(experts)))
    for r in rows:
        affinity[at[r["expert"]], at[r["other"]]] = r["lift"] or 0
    order = clustered((affinity + affinity.T) / 2)
    place = {experts[i]: n for n, i in enumerate(order)}
    z: list[list[float | None]] = [[None] * len(experts) for _ in experts]
    words = [[""] * len(experts) for _ in experts]
    for r in rows:
        i, j = place[r["expert"]], place[r["other"]]
        z[i][j] = _measured(r, measure)
        words[i][j] = (
            f"expert {r['expert']} with {r['other']}<br>{count(r['n'])} tokens, {significant(r['expected'])} expected<br>"
            f"lift {interval({**r, 'value': r['lift']}, significant) if r['lift'] is not None else '-'}<br>"
            f"{percent(r['p_other_given_expert'])} of {r['expert']}'s tokens"
        )
    names = [str(experts[i]) for i in order]
    heat = {
        "type": "heatmap", "z": z, "x": names, "y": names, "text": words, "hovertemplate": "%{text}<extra></extra>",
        "xgap": 1, "ygap": 1, **_scale(z, measure),
    }  # fmt: skip
    size = 120 + (CELL if len(names) <= 32 else 9) * len(names)
    axes = {"yaxis": {"type": "category", "autorange": "reversed", "showgrid": False, "nticks": 40}}
    return figure(
        [heat], x="expert", y="expert", height=min(size, 760), xaxis={"type": "category", "nticks": 40}, **axes
    )


def _measured(row: Row, measure: str) -> float | None:
    if measure == "lift":
        return None if row["lift"] is None else log_ratio(row["lift"])
    share = row["p_other_given_expert"]
    if measure == "adjacent" and share is not None:
        share = share * row["n_adjacent"] / row["n"] if row["n"] else 0.0
    return None if share is None else share * 100


def _scale(z: list[list[float | None]], measure: str) -> dict:
    if measure == "lift":
        return diverging(z, "lift")
    top = max((v for row in z for v in row if v is not None), default=1.0) or 1.0
    ticks = [0, top / 2, top]
    legend = bar("% of row", ticks, [significant(t, 2) for t in ticks])
    return {"colorscale": SEQUENTIAL, "zmin": 0, "zmax": top, "colorbar": legend}


def labels(rows: Sequence[Row]) -> go.Figure:
    """Share of each label's tokens that choose each expert; a dot where it lies outside the null, or where there is no null
    outside its interval's reach of k / experts.

    rows: of `app_routing.labels`.
    """
    names = list(dict.fromkeys(r["label"] for r in rows))
    uniform = rows[0]["uniform"] if rows else 0.0
    affinity: dict[int, dict[str, float]] = {}
    for r in rows:
        affinity.setdefault(r["expert"], {})[r["label"]] = r["share"] or 0.0
    # Experts by the label they prefer, strongest first: the heat map then reads as blocks.
    top = {e: max(names, key=lambda n, s=s: s.get(n, 0)) for e, s in affinity.items()}
    experts = sorted(affinity, key=lambda e: (names.index(top[e]), -affinity[e][top[e]]))
    place = {e: i for i, e in enumerate(experts)}
    z: list[list[float | None]] = [[None] * len(experts) for _ in names]
    words = [[""] * len(experts) for _ in names]
    marks = []
    for r in rows:
        i, j = names.index(r["label"]), place[r["expert"]]
        share = r["share"]
        ratio = share / uniform if share is not None and uniform else None
        z[i][j] = None if ratio is None else log_ratio(ratio)
        null = f"<br>null {percent(r['null_lo'])} to {percent(r['null_hi'])}" if r["null_lo"] is not None else ""
        words[i][j] = f"{r['label']}, expert {r['expert']}<br>{interval(r)} of {count(r['n_label'])} tokens{null}"
        if outside(r):
            marks.append((str(r["expert"]), r["label"]))
    heat = {
        "type": "heatmap", "z": z, "x": [str(e) for e in experts], "y": names, "text": words, "xgap": 1, "ygap": 1,
        "hovertemplate": "%{text}<extra></extra>", **diverging(z, "\u00d7 uniform"),
    }  # fmt: skip
    dots = {
        "type": "scatter", "mode": "markers", "x": [x for x, _ in marks], "y": [y for _, y in marks], "hoverinfo": "skip",
        "marker": {"size": 5, "color": MUTED},
    }  # fmt: skip
    axes = {"yaxis": {"type": "category", "autorange": "reversed", "showgrid": False, "nticks": 40}}
    return figure([heat, dots], x="expert, by the label it prefers", y="", height=max(170, 110 + CELL * len(names)),
                  xaxis={"type": "category", "nticks": 40}, **axes)  # fmt: skip


def outside(row: Row) -> bool:
    """Whether a share is more than shuffling would give: outside the null's band, or with no null, with an interval off k / e."""
    if row["share"] is None:
        return False
    if row["null_lo"] is not None:
        return not row["null_lo"] <= row["share"] <= row["null_hi"]
    return row["lo"] is not None and not row["lo"] <= row["uniform"] <= row["hi"]


def confusion(rows: Sequence[Row], x: str, y: str) -> go.Figure:
    """First choices of one router against those of another on the same tokens; columns ordered to follow the rows.

    rows: of `app_routing.confusion`: expert (row), other (column), n.
    """
    mine, theirs = sorted({r["expert"] for r in rows}), sorted({r["other"] for r in rows})
    n = np.zeros((len(mine), len(theirs)))
    for r in rows:
        n[mine.index(r["expert"]), theirs.index(r["other"])] = r["n"]
    share = n / np.maximum(n.sum(1, keepdims=True), 1)
    order = sorted(range(len(theirs)), key=lambda j: (int(share[:, j].argmax()), -share[:, j].max()))
    words = [
        [
            f"{y} expert {e}, {x} expert {theirs[j]}<br>{count(n[i, j])} tokens, {percent(share[i, j])} of the row"
            for j in order
        ]
        for i, e in enumerate(mine)
    ]
    top = float(share.max(initial=0)) * 100
    ticks = [0, top / 2, top]
    heat = {
        "type": "heatmap", "z": (share[:, order] * 100).tolist(), "x": [str(theirs[j]) for j in order],
        "y": [str(e) for e in mine], "text": words, "hovertemplate": "%{text}<extra></extra>", "xgap": 1, "ygap": 1, 
        "colorscale": SEQUENTIAL, "zmin": 0,
        "colorbar": bar("% of row", ticks, [significant(t, 2) for t in ticks]),
    }  # fmt: skip
    size = 120 + (CELL if len(mine) <= 32 else 9) * len(mine)
    axes = {"yaxis": {"type": "category", "autorange": "reversed", "showgrid": False, "nticks": 40}}
    return figure([heat], x=f"expert of {x}", y=f"expert of {y}", height=min(size, 700),
                  xaxis={"type": "category", "nticks": 40}, **axes)  # fmt: skip
