"""The style sheet: palette.py's colours as CSS variables, then app.css."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from sparse_rep.app.charts.palette import ACCENT, CATEGORIES, LEVELS, LINE, MUTED, PAGE, PANEL, TEXT, Shade, strength


@cache
def stylesheet() -> str:
    """The whole style sheet as one `<style>` element, no address in it."""
    names = {"text": TEXT, "page": PAGE, "panel": PANEL, "line": LINE, "accent": ACCENT}
    names |= {f"h{i}": shade for i, shade in enumerate(CATEGORIES)}
    names |= {"bar": Shade("#fcdcbf", "#57330f"), "bar-neg": Shade("#c3dff7", "#1b4369")}
    names |= {"soft": Shade("#566474", "#9aa7b6"), "faint": Shade("#a9b4c0", "#55636f")}
    variables = "".join(f"--sr-{name}: light-dark({shade.light}, {shade.dark}); " for name, shade in names.items())
    heat = "".join(f".h{n} {{ --a: {100 * strength(n):.0f}%; }}\n" for n in range(1, LEVELS + 1))
    hues = "".join(f".c{i} {{ --h: var(--sr-h{i}); }}\n" for i in range(1, len(CATEGORIES)))
    root = f"[data-testid='stApp'] {{ {variables}--sr-muted: {MUTED}; }}\n"
    return f"<style>\n{root}{heat}{hues}{files('sparse_rep.app.components').joinpath('app.css').read_text('utf-8')}</style>"
