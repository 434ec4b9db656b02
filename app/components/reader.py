"""A passage in which each token takes the hue of the feature that stands out most on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sparse_rep.app.charts.palette import CATEGORIES
from sparse_rep.app.components.blocks import Cell, Column, link, table, text
from sparse_rep.app.components.feature_blocks import words
from sparse_rep.app.components.token_view import token_view
from sparse_rep.app.wording import count, percent, significant

Row = Mapping[str, Any]


def passage(
    tokens: Sequence[Row],
    active: Sequence[Row],
    chosen: Sequence[Row],
    hues: Mapping[int, int],
    maxima: Mapping[int, float],
    to: Callable[[int], str],
    focus: int | None,
) -> str:
    """HTML of the text.

    tokens: rows of `app_read.text`; active: of `app_read.active`; chosen: of `app_read.of`, the features that have a hue.
    hues: number of the hue by feature; maxima: largest activation by feature: strength is the share of it that is reached.
    A coloured token links to its feature; `focus` is the position of the token to underline.
    """
    strongest: dict[int, tuple[float, int]] = {}
    for row in chosen:
        share = abs(row["act"]) / maxima[row["feature"]]
        strongest[row["tok"]] = max(strongest.get(row["tok"], (0.0, 0)), (share, row["feature"]))
    lists: dict[int, list[Row]] = {}
    for row in active:
        lists.setdefault(row["tok"], []).append(row)
    here = [strongest.get(row["tok"]) for row in tokens]
    return token_view(
        [row["text"] for row in tokens],
        [share for share, _ in (found or (0.0, 0) for found in here)],
        [_tip(row, lists.get(row["tok"], [])) for row in tokens],
        links=[to(found[1]) if found else None for found in here],
        categories=[hues[found[1]] if found else None for found in here],
        scale=1.0,
        focus=next((i for i, row in enumerate(tokens) if row["tok"] == focus), None),
        breaks=True,
    )


def legend(rows: Sequence[Row], hues: Mapping[int, int], to: Callable[[int], str]) -> str:
    """The features with a hue: rows of `app_read.leading`."""
    columns = [
        Column("feature"),
        Column("fires most on"),
        Column("tokens", numeric=True, tip="Tokens of this passage on which it fires"),
        Column("denser", numeric=True, tip="Times as often as in all text"),
        Column("of max", numeric=True, tip="Its strongest activation here, as a share of its maximum anywhere"),
    ]
    body = [
        [
            Cell(f'<i class="key h8 c{hues[row["feature"]]}"></i> {link(to(row["feature"]), str(row["feature"]))}'),
            Cell(words(row["top_tokens"], 2)),
            text(count(row["n"])),
            text(significant(row["lift"], 2)),
            text(percent(row["of_max"], 2)),
        ]
        for row in rows
    ]
    return table(columns, body, caption="Features that stand out in this passage", css="tight legend")


def assign(features: Sequence[int]) -> dict[int, int]:
    """A hue for each feature, as many as there are hues."""
    return {feature: i for i, feature in enumerate(features[: len(CATEGORIES)])}


def _tip(token: Row, active: Sequence[Row]) -> str:
    head = f"token {token['token_id']} · corpus {token['tok']:,}"
    if not active:
        return f"nothing fires\n{head}"
    lines = [f"feature {row['feature']}: {significant(row['act'])}" for row in active]
    more = active[0]["n_active"] - len(active)
    return "\n".join([*lines, *([f"and {more} more"] if more > 0 else []), head])
