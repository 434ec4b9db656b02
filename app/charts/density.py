"""How often the latents of a dictionary fire."""

from __future__ import annotations

from collections.abc import Sequence
from math import floor

import plotly.graph_objects as go

from sparse_rep.app.charts.figure import Row, figure
from sparse_rep.app.charts.palette import MUTED, SERIES
from sparse_rep.app.wording import percent

BIN = 0.2
"""Width of a bin in decades; `app_features.density` counts by it."""


def density_histogram(bins: Sequence[Row]) -> go.Figure:
    """Latents a bin of log10 density: all of them grey, those that the filter keeps in colour.

    bins: rows of log_lo (log10 of the lowest density), n (latents) and n_kept (latents within the filter). Dead latents
    have no logarithm and are not among them; the caller says how many there are.
    """
    lows = [b["log_lo"] for b in bins]
    words = [f"fires on {percent(10**lo, 2)} to {percent(10 ** (lo + BIN), 2)} of tokens" for lo in lows]
    bars = {"type": "bar", "x": [lo + BIN / 2 for lo in lows], "width": BIN, "customdata": words}
    everything = bars | {"name": "all", "y": [b["n"] for b in bins], "marker": {"color": MUTED, "opacity": 0.35}}
    kept = bars | {"name": "in the filter", "y": [b["n_kept"] for b in bins], "marker": {"color": SERIES[0]}}
    everything["hovertemplate"] = "%{customdata}<br>%{y:,} latents<extra></extra>"
    kept["hovertemplate"] = "%{customdata}<br>%{y:,} in the filter<extra></extra>"
    powers = list(range(floor(min(lows, default=-5)), 1))
    x = {"tickvals": powers, "ticktext": [percent(10.0**p, 1) for p in powers]}
    title = "share of tokens on which a latent fires (log)"
    return figure([everything, kept], x=title, y="latents", barmode="overlay", xaxis=x, height=170)
