"""Thresholds that the app words and queries share."""

RARE = 1e-4
"""Below this density an alive latent counts as rare."""

DENSE = 0.1
"""Above this density a latent counts as dense: it fires too often to mean one thing."""

MAX_ROWS = 2000
"""Most rows that a view sends to the browser."""
