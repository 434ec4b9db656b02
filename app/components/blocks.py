"""Small blocks of HTML: figures, badges, tables with bars, links. Every text that comes from data is escaped here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

Tone = Literal["plain", "good", "warn", "bad", "info"]


@dataclass(frozen=True)
class Figure:
    """One number of a row of numbers; `note` stands beneath it, `tip` explains it on hover and focus."""

    label: str
    value: str
    note: str = ""
    tip: str = ""


def figures(items: Iterable[Figure]) -> str:
    """A row of figures that wraps on narrow screens."""
    cells = "".join(
        f"<div{_tip(item.tip)}><dt>{escape(item.label)}</dt><dd>{escape(item.value)}"
        + (f"<small>{escape(item.note)}</small>" if item.note else "")
        + "</dd></div>"
        for item in items
    )
    return f'<dl class="figures">{cells}</dl>'


def badge(text: str, tone: Tone = "plain", tip: str = "") -> str:
    """A short word in a coloured pill."""
    return f'<span class="badge {tone}"{_tip(tip)}>{escape(text)}</span>'


def link(address: str, text: str, *, css: str = "", tip: str = "", key: str = "") -> str:
    """A link within the app. `key` is the keyboard key that follows it (see shell.js)."""
    extra = (f' class="{css}"' if css else "") + (f' data-key="{escape(key)}"' if key else "") + _tip(tip, focus=False)
    return f'<a href="{escape(address)}"{extra}>{escape(text)}</a>'


def step(address: str | None, word: str, key: str, sign: str) -> str:
    """A link of the row that steps through features; without an address it is there but leads nowhere."""
    label = f"{escape(word)}<kbd>{escape(sign)}</kbd>"
    if address is None:
        return f'<span aria-disabled="true">{label}</span>'
    return f'<a href="{escape(address)}" data-key="{escape(key)}">{label}</a>'


@dataclass(frozen=True)
class Cell:
    """A table cell of ready HTML. `bar` in 0..1 draws a bar behind it; `negative` gives it the opposite hue."""

    html: str
    bar: float | None = None
    negative: bool = False
    tip: str = ""


@dataclass(frozen=True)
class Column:
    """A table column. `href` makes the heading a link that sorts; `sorted` is the present order, if any."""

    label: str
    numeric: bool = False
    tip: str = ""
    href: str | None = None
    sorted: Literal["ascending", "descending"] | None = None


def text(value: object, tip: str = "") -> Cell:
    """A cell of plain text."""
    return Cell(escape(str(value)), tip=tip)


def table(columns: Sequence[Column], rows: Iterable[Sequence[Cell]], *, caption: str, css: str = "") -> str:
    """An HTML table; `caption` names it to screen readers."""
    body = "".join(
        "<tr>" + "".join(_cell(cell, column) for cell, column in zip(row, columns, strict=True)) + "</tr>"
        for row in rows
    )
    return (
        f'<div class="scroll"><table class="rows {css}"><caption>{escape(caption)}</caption>'
        f"<thead><tr>{''.join(map(_heading, columns))}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def note(sentence: str) -> str:
    """A quiet line under or instead of a view."""
    return f'<p class="quiet">{escape(sentence)}</p>'


def _heading(column: Column) -> str:
    css = ' class="num"' if column.numeric else ""
    order = f' aria-sort="{column.sorted}"' if column.sorted else ""
    arrow = {"ascending": " ↑", "descending": " ↓", None: ""}[column.sorted]
    label = escape(column.label) + arrow
    if column.href is not None:
        label = f'<a href="{escape(column.href)}">{label}</a>'
    return f'<th scope="col"{css}{order}{_tip(column.tip, focus=column.href is None)}>{label}</th>'


def _cell(cell: Cell, column: Column) -> str:
    css = [name for name, on in (("num", column.numeric), ("bar", cell.bar is not None), ("neg", cell.negative)) if on]
    style = f' style="--w:{100 * min(1.0, max(0.0, cell.bar)):.0f}%"' if cell.bar is not None else ""
    classes = f' class="{" ".join(css)}"' if css else ""
    return f"<td{classes}{style}{_tip(cell.tip, focus=False)}>{cell.html}</td>"


def _tip(tip: str, *, focus: bool = True) -> str:
    if not tip:
        return ""
    return f' data-tip="{escape(tip)}"' + (' tabindex="0"' if focus else "")


def alert(sentence: str, tone: Tone = "bad") -> str:
    """Something that needs attention, in a sentence. Plain text: what errors quote must not turn into formatting."""
    return f'<div class="alert {tone}" role="alert">{escape(sentence)}</div>'


def empty_state(title: str, sentence: str, command: str = "") -> str:
    """Instead of a view that has nothing to show: what is missing and the command that brings it."""
    code = f"<pre>{escape(command)}</pre>" if command else ""
    return f'<div class="empty"><h3>{escape(title)}</h3><div>{escape(sentence)}</div>{code}</div>'


def heading(question: str, about: str = "") -> str:
    """The head of a page: the question it answers and what is asked about (ready HTML of `<span>`s)."""
    line = f'<div class="about">{about}</div>' if about else ""
    return f'<div class="page-head"><h1>{escape(question)}</h1></div>{line}'


def section(title: str, aside: str = "") -> str:
    """The head of a section; `aside` says unit, n or what was cut."""
    small = f"<small>{escape(aside)}</small>" if aside else ""
    return f'<h2 class="sec">{escape(title)}{small}</h2>'


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """A list of names and ready HTML values."""
    return f'<dl class="facts">{"".join(f"<dt>{escape(k)}</dt><dd>{v}</dd>" for k, v in pairs)}</dl>'
