"""Examples of a feature: texts around the tokens on which it fires, each token coloured by its activation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from sparse_rep.app.charts.palette import strength
from sparse_rep.app.components.blocks import link
from sparse_rep.app.components.token_view import token_view
from sparse_rep.app.wording import count, percent, significant

Row = Mapping[str, Any]

BUDGET = 280_000
"""Characters of HTML a view may send; beyond it browsers lag, and nobody reads that much."""


@dataclass(frozen=True)
class Width:
    """How much text stands around an example, in tokens."""

    before: int
    after: int
    breaks: bool


WIDTHS = {"Short": Width(14, 8, False), "Snippet": Width(44, 20, False), "Full": Width(384, 128, True)}


@dataclass(frozen=True)
class Group:
    """Examples under one heading: `title` and `aside` in words, `level` the heat of its key (None for no key)."""

    title: str
    aside: str
    level: int | None
    examples: Sequence[Row]


def strongest(top: Sequence[Row]) -> Group:
    """The group of the strongest examples (rows of `app_feature.top`)."""
    return Group("Strongest", "a text that repeats is shown once", None, top)


def intervals(sample: Iterable[Row]) -> list[Group]:
    """Groups of random examples by tenth of the activation's range (rows of `app_feature.sample`, strongest first)."""
    groups: dict[int, list[Row]] = {}
    for row in sample:
        groups.setdefault(row["interval"], []).append(row)
    return [
        Group(
            f"{significant(rows[0]['lo'])} to {significant(rows[0]['hi'])}",
            f"{count(rows[0]['n'])} tokens, {percent(rows[0]['share'])} of its summed activation, {len(rows)} at random",
            number + 1,
            rows,
        )
        for number, rows in groups.items()
    ]


def examples_html(
    groups: Iterable[Group],
    contexts: Iterable[Row],
    scale: float,
    width: Width,
    read: Callable[[int, int], str],
) -> tuple[str, int]:
    """HTML of the groups and how many examples the budget left out.

    contexts: rows of `app_feature.contexts`, all tokens of a context together. scale: activation that takes full heat.
    read: address of the reader for a document and a token in it.
    """
    texts: dict[int, list[Row]] = {}
    for row in contexts:
        texts.setdefault(row["peak"], []).append(row)
    parts: list[str] = []
    used = left_out = 0
    for group in groups:
        items = []
        for example in group.examples:
            text = texts.get(example["tok"])
            item = _example(example, text, scale, width, read) if text else ""
            if used + len(item) > BUDGET:
                left_out += 1
                continue
            used += len(item)
            items.append(item)
        if items:
            parts.append(_head(group) + f'<ol class="examples">{"".join(items)}</ol>')
    return "".join(parts), left_out


def _head(group: Group) -> str:
    key = f'<i class="key" style="--a:{100 * strength(group.level):.0f}%"></i>' if group.level else ""
    return f'<div class="interval">{key}<b>{escape(group.title)}</b><span>{escape(group.aside)}</span></div>'


def _example(example: Row, text: Sequence[Row], scale: float, width: Width, read: Callable[[int, int], str]) -> str:
    first = text[0]
    source = f"{first['source']} · {first['domain']} · document {first['doc']:,}"
    focus = next(i for i, row in enumerate(text) if row["tok"] == example["tok"])
    body = token_view(
        [row["text"] for row in text],
        [row["act"] for row in text],
        [_tip(row) for row in text],
        scale=scale,
        focus=focus,
        breaks=width.breaks,
    )
    return (
        f'<li data-row-tip="{escape(source)}"><span class="act">{significant(example["act"])}</span>'
        f'{body}<span class="src">{link(read(first["doc"], example["tok"]), source)}</span></li>'
    )


def _tip(row: Row) -> str:
    strength_words = f"activation {significant(row['act'])}" if row["act"] else "silent"
    return f"{strength_words}\ntoken {row['token_id']} · position {row['position']:,} · corpus {row['tok']:,}"
