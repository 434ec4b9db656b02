"""A passage in which each token takes the hue of the expert that read it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

from sparse_rep.app.charts.palette import CATEGORIES
from sparse_rep.app.components.blocks import Cell, Column, link, table, text
from sparse_rep.app.components.token_view import token_view
from sparse_rep.app.wording import count, percent, significant

Row = Mapping[str, Any]
OTHER = len(CATEGORIES) - 1
"""The grey that experts without a hue of their own share."""


def hues(choices: Sequence[Row]) -> dict[int, int]:
    """A hue for each of the experts that are the first choice most often; the others share the last.

    choices: rows of `app_routing.passage` of one layer.
    """
    first = Counter(c["expert"] for c in choices if c["rank"] == 1)
    return {
        expert: i for i, (expert, _) in enumerate(sorted(first.items(), key=lambda item: (-item[1], item[0]))[:OTHER])
    }


def passage(
    tokens: Sequence[Row],
    choices: Sequence[Row],
    hue: Mapping[int, int],
    to: Callable[[int], str] | None,
    focus: int | None = None,
) -> str:
    """HTML of the text at one layer.

    tokens: rows of `app_read.text`; choices: of `app_routing.passage`, one layer. The hue is the first choice's, its strength
    the first choice's share of the token's summed weight (full where weights are not known). A token links to its expert.
    """
    by_tok: dict[int, list[Row]] = {}
    for c in choices:
        by_tok.setdefault(c["tok"], []).append(c)
    here = [by_tok.get(t["tok"], []) for t in tokens]
    return token_view(
        [t["text"] for t in tokens],
        [share(mine) for mine in here],
        [tip(t, mine) for t, mine in zip(tokens, here, strict=True)] if to is not None else None,
        links=[to(mine[0]["expert"]) if mine else None for mine in here] if to is not None else None,
        categories=[hue.get(mine[0]["expert"], OTHER) if mine else None for mine in here],
        scale=1.0,
        focus=next((i for i, t in enumerate(tokens) if t["tok"] == focus), None),
        breaks=to is not None,
    )  # fmt: skip


def share(choices: Sequence[Row]) -> float:
    """The first choice's share of a token's summed weight; 1 where weights are not known, 0 for a token that was not routed."""
    if not choices:
        return 0.0
    total = sum(abs(c["weight"]) for c in choices if c["weight"] is not None)
    return abs(choices[0]["weight"]) / total if total and choices[0]["weight"] is not None else 1.0


def tip(token: Row, choices: Sequence[Row]) -> str:
    """Every chosen expert with its weight, then the token."""
    head = f"token {token['token_id']} · corpus {token['tok']:,}"
    if not choices:
        return f"not routed\n{head}"
    lines = [
        f"expert {c['expert']}" + (f": weight {significant(c['weight'])}" if c["weight"] is not None else "")
        for c in choices
    ]
    margin = choices[0]["margin"]
    return "\n".join([*lines, *([f"margin {significant(margin)}"] if margin is not None else []), head])


def legend(choices: Sequence[Row], hue: Mapping[int, int], n_experts: int, k: int, to: Callable[[int], str]) -> str:
    """The experts of a passage at one layer, busiest first."""
    first = Counter(c["expert"] for c in choices if c["rank"] == 1)
    chosen = Counter(c["expert"] for c in choices)
    n = sum(first.values()) or 1
    columns = [
        Column("expert"),
        Column("first choice", numeric=True, tip="Tokens of this passage whose first choice it is"),
        Column("chosen", numeric=True, tip=f"Tokens that chose it at all; a fair share is {percent(k / n_experts)}"),
    ]
    body = [
        [
            Cell(f'<i class="key h9 c{hue.get(expert, OTHER)}"></i> {link(to(expert), f"expert {expert}")}'),
            text(count(first[expert])),
            Cell(percent(chosen[expert] / n, 2), bar=chosen[expert] / n),
        ]
        for expert in sorted(chosen, key=lambda e: (-first[e], -chosen[e], e))[: 2 * len(CATEGORIES)]
    ]
    return table(columns, body, caption="Experts of this passage", css="tight legend")


def multiples(panels: Sequence[tuple[str, str, str]]) -> str:
    """Small passages side by side: (title, address, HTML of the text) each."""
    cards = "".join(
        f'<article class="card"><h3>{link(address, title)}</h3>{body}</article>' for title, address, body in panels
    )
    return f'<div class="cards" aria-label="{escape("The same tokens, layer by layer")}">{cards}</div>'
