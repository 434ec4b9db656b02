"""Every colour of the app, once. `.streamlit/config.toml` repeats the theme's part (a test keeps them equal).

The hues are Okabe and Ito's (Color Universal Design, 2008), told apart with every common colour-vision deficiency. Each is
given for a light and a dark page: a token's text keeps a contrast of 4.5 (WCAG AA) on its strongest heat in both.
"""

from __future__ import annotations

from typing import NamedTuple


class Shade(NamedTuple):
    """One hue on a light page and on a dark one, as hex strings."""

    light: str
    dark: str


TEXT = Shade("#1b2430", "#e6eaf0")
PAGE = Shade("#ffffff", "#10151b")
PANEL = Shade("#f4f6f8", "#1a212a")
LINE = Shade("#dfe4ea", "#2d3743")
ACCENT = Shade("#1565b8", "#2f78cd")

HEAT = Shade("#f59331", "#a8500a")
"""Strength of an activation: the app's one sequential hue."""

OPPOSITE = Shade("#5aa9e6", "#1f5f99")
"""Negative values and whatever pulls the other way; the blue to the orange."""

CATEGORIES = (
    HEAT,
    OPPOSITE,
    Shade("#2fb492", "#0b6b53"),
    Shade("#d68ab5", "#8a3f6c"),
    Shade("#d9c534", "#665b08"),
    Shade("#a79be8", "#564a9e"),
    Shade("#9aa5b1", "#4b5866"),
)
"""Hues of categories, in the order in which they are handed out; beyond the last they repeat."""

SERIES = ("#2a7fd0", "#e07b1a", "#1a9c7b", "#c4679c", "#9a8b0e", "#7d6fd0", "#7a8794")
"""Lines and bars of charts: middle tones that stand out from both pages."""

MUTED = "#8b98a7"
LEVELS = 10
"""Steps of heat; neighbouring steps are barely told apart, so finer ones would only cost bytes."""


def strength(level: int) -> float:
    """Share of the hue in a token's background at `level` 1..LEVELS. Starts at 0.14, below which it reads as nothing."""
    assert 1 <= level <= LEVELS
    return 0.14 + 0.86 * (level - 1) / (LEVELS - 1)
