"""Text as a model reads it: one span a token, coloured by a value. Every page shows token text through `token_view`."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from math import isfinite

from sparse_rep.app.charts.palette import CATEGORIES, LEVELS

# White space that a reader would miss gets a mark by CSS (`i.s::before`), so that copied text stays the text.
_MARKS = {" ": "s", "\t": "t", "\n": "n", "\r": "r"}


def token_view(
    tokens: Sequence[str],
    values: Sequence[float],
    tooltips: Sequence[str] | None = None,
    links: Sequence[str | None] | None = None,
    categories: Sequence[int | None] | None = None,
    *,
    scale: float | None = None,
    focus: int | None = None,
    breaks: bool = False,
) -> str:
    """HTML of tokens with heat.

    tokens: texts as they read, white space and all; they are escaped here.
    values: one a token; 0 is unlit, a negative one takes the opposite hue, opacity grows with |value| / scale.
    tooltips: shown on hover, and on keyboard focus of lit or linked tokens; lines are separated by newlines.
    links: addresses, None for no link.
    categories: number of a hue (`palette.CATEGORIES`), None for the heat's own.
    scale: the value that takes full heat; the largest |value| unless told, so that rows can share one.
    focus: index of the token the text is about: underlined.
    breaks: break lines at newlines (their mark shows either way).

    Raises ValueError when the sequences differ in length.
    """
    for name, given in (("values", values), ("tooltips", tooltips), ("links", links), ("categories", categories)):
        if given is not None and len(given) != len(tokens):
            raise ValueError(f"token_view got {len(tokens)} tokens but {len(given)} {name}; give one a token")
    top = scale if scale is not None else max((abs(v) for v in values), default=0.0)
    parts: list[str] = []
    for i, (token, value) in enumerate(zip(tokens, values, strict=True)):
        category = categories[i] if categories is not None else None
        css = heat_class(value, top, category)
        if i == focus:
            css = f"{css} at".lstrip()
        link = links[i] if links is not None else None
        attributes = f' class="{css}"' if css else ""
        if tooltips is not None and tooltips[i]:
            attributes += f' data-tip="{escape(tooltips[i])}"'
        body = _visible(token, breaks)
        if link is not None:
            parts.append(f'<a href="{escape(link)}"{attributes}>{body}</a>')
        elif css:
            parts.append(f'<mark tabindex="0"{attributes}>{body}</mark>')
        else:
            parts.append(f"<span{attributes}>{body}</span>" if attributes else body)
    return f'<div class="tv">{"".join(parts)}</div>'


def heat_class(value: float, scale: float, category: int | None = None) -> str:
    """CSS classes for a value: `h1`..`h10` for its strength, `c<n>` for its hue; empty where nothing should show."""
    if value == 0 or not isfinite(value) or scale <= 0:
        return ""
    level = min(LEVELS, max(1, round(abs(value) / scale * LEVELS)))
    hue = category % len(CATEGORIES) if category is not None else (1 if value < 0 else 0)
    return f"h{level}" if hue == 0 else f"h{level} c{hue}"


def _visible(token: str, breaks: bool) -> str:
    """Escaped text with marks for white space that a reader would miss: all but a single space beside a word."""
    if not token:
        return '<i class="e"></i>'
    blank = token.isspace()
    out: list[str] = []
    for i, char in enumerate(token):
        if char == " " and not blank and token[i - 1 : i] != " " and token[i + 1 : i + 2] != " ":
            out.append(" ")
        elif char in _MARKS:
            inside = "" if char in "\n\r" else char
            out.append(f'<i class="{_MARKS[char]}">{inside}</i>' + ("\n" if char == "\n" and breaks else ""))
        elif char.isprintable():
            out.append(escape(char))
        else:
            out.append(f'<i class="x">U+{ord(char):04X}</i>')
    return "".join(out)
