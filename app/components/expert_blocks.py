"""Tables about experts as HTML: rows of the app_routing and app_expert queries in, one string out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

from sparse_rep.app.charts.routing import interval
from sparse_rep.app.charts.routing_pairs import outside
from sparse_rep.app.components.blocks import Cell, Column, Figure, badge, figures, link, table, text
from sparse_rep.app.components.feature_blocks import words
from sparse_rep.app.wording import NOTHING, count, percent, shown, significant

Row = Mapping[str, Any]
Link = Callable[[int, int], str]
"""(layer, expert) -> address"""

HOT = 2.0
"""Times a fair share from which an expert counts as hot."""


def state(row: Row) -> str:
    """What to beware of about an expert, in a word. row: n_tokens and of_fair."""
    if not row["n_tokens"]:
        return badge("dead", "bad", "No token of this text chose it")
    if row["of_fair"] >= HOT:
        return badge("hot", "warn", f"At least {HOT:g} times its fair share of tokens")
    return ""


def extremes(rows: Sequence[Row], to: Link, each: int) -> str:
    """The busiest experts and the idlest, `each` of both. rows: of `app_routing.loads`."""
    ranked = sorted(rows, key=lambda r: (-r["of_fair"], r["layer"], r["expert"]))
    kept = ranked if len(ranked) <= 2 * each else [*ranked[:each], *ranked[-each:]]
    top = max((r["of_fair"] for r in rows), default=1.0) or 1.0
    columns = [
        Column("expert"),
        Column("tokens", numeric=True),
        Column("of a fair share", numeric=True, tip="1 is what each expert would get if all got the same"),
        Column("share of tokens", numeric=True, tip="With a 95 % interval from a jackknife over groups of documents"),
        Column("importance", numeric=True, tip="Its share of the layer's summed routing weight"),
    ]
    body = [
        [
            Cell(f"{_expert(r['layer'], r['expert'], to)} {state(r)}"),
            text(count(r["n_tokens"])),
            Cell(significant(r["of_fair"]), bar=r["of_fair"] / top),
            text(interval(r)),
            text(percent(r["importance"])),
        ]
        for r in kept
    ]
    return table(columns, body, caption="Busiest and idlest experts", css="tight")


def pairs(rows: Sequence[Row], layer: int, to: Link) -> str:
    """Pairs of experts of one layer. rows: of `app_routing.pairs`."""
    columns = [
        Column("experts"),
        Column("tokens", numeric=True, tip="That chose both"),
        Column("expected", numeric=True, tip="Of a router with these loads and this k that is otherwise indifferent"),
        Column("lift", numeric=True, tip="Tokens over expected, with a 95 % interval"),
    ]
    body = [
        [
            Cell(
                f"{link(to(layer, r['expert']), str(r['expert']))} with {link(to(layer, r['other']), str(r['other']))}"
            ),
            text(count(r["n"])),
            text(significant(r["expected"])),
            text(interval({**r, "value": r["lift"]}, significant)),
        ]
        for r in rows
    ]
    return table(columns, body, caption="Pairs of experts", css="tight")


def paths(rows: Sequence[Row], layers: Sequence[int], to: Link) -> str:
    """Commonest paths through all routers. rows: of `app_routing.paths`."""
    top = max((r["share"] for r in rows), default=1.0) or 1.0
    columns = [
        Column("path", tip=f"First choices at layers {', '.join(map(str, layers))}"),
        Column("tokens", numeric=True),
        Column("share", numeric=True),
        Column("\u00d7 independent", numeric=True, tip="Tokens over those expected if layers chose independently"),
        Column(
            "\u00d7 chained",
            numeric=True,
            tip="Tokens over those expected if each choice depended on the one before only",
        ),
    ]
    body = [
        [
            Cell(_path(r["path"], layers, to)),
            text(count(r["n"])),
            Cell(percent(r["share"]), bar=r["share"] / top),
            text(_times(r["n"], r["expected"])),
            text(_times(r["n"], r["expected_markov"])),
        ]
        for r in rows
    ]
    return table(columns, body, caption="Paths of first choices", css="tight")


def vocabulary(rows: Sequence[Row], layer: int, to: Link) -> str:
    """The tokens each expert prefers. rows: of `app_routing.vocabulary`, by expert and rank."""
    by_expert: dict[int, list[Row]] = {}
    for r in rows:
        by_expert.setdefault(r["expert"], []).append(r)
    ranked = sorted(by_expert.items(), key=lambda item: -item[1][0]["lo"])
    columns = [
        Column("expert"),
        Column("tokens it is chosen on most"),
        Column(
            "of the first", numeric=True, tip="Of the first token's occurrences, those that choose it; Wilson interval"
        ),
    ]
    body = [
        [
            Cell(link(to(layer, expert), f"expert {expert}", css="nowrap")),
            Cell(f'<span class="chips">{"".join(_chip(r) for r in mine)}</span>'),
            Cell(interval(mine[0]), bar=mine[0]["share"]),
        ]
        for expert, mine in ranked
    ]
    return table(columns, body, caption="Tokens that experts prefer", css="tight")


def numbers(row: Row, layer: int) -> str:
    """The figures of one expert. row: of `app_expert.numbers`."""
    if row["shared"]:
        return figures(
            [Figure("Tokens", count(row["n_routed"]), "every one", "A shared expert is not chosen: all tokens pass it")]
        )
    span = f"{percent(row['lo'], 2)} to {percent(row['hi'], 2)}" if row["lo"] is not None else ""
    jackknife = "With a 95 % interval from a jackknife over groups of documents"
    fair = f"fair: {percent(row['k'] / row['n_experts'])} of tokens"
    weight = "Its share of the layer's summed routing weight"
    probability = "Mean over tokens of the router's probability of it"
    return figures(
        [
            Figure(
                "Tokens", count(row["n_tokens"]), f"of {count(row['n_routed'])}", "Tokens of the text that chose it"
            ),
            Figure("Share of tokens", percent(row["share"]), span, jackknife),
            Figure("Load", f"{significant(row['of_fair'])} \u00d7 fair", fair),
            Figure("Importance", percent(row["importance"]), "of routing weight", weight),
            Figure("Mean probability", percent(row["mean_prob"]), "chosen or not", probability),
            Figure("Layer", str(layer), f"{row['n_experts']} experts, {row['k']} a token"),
        ]
    )


def tokens(rows: Sequence[Row]) -> str:
    """Tokens an expert is chosen on most. rows: of `app_expert.tokens`."""
    columns = [
        Column("token"),
        Column("chosen", numeric=True, tip="Occurrences that chose it, of all"),
        Column("share", numeric=True, tip="With a 95 % Wilson interval"),
        Column("lift", numeric=True, tip="Share over the expert's share of all tokens"),
    ]
    body = [
        [
            Cell(_chip(r)),
            text(f"{count(r['n'])} of {count(r['n_token'])}"),
            Cell(interval(r, lambda x: percent(x, 2)), bar=r["share"]),
            text(significant(r["lift"], 2)),
        ]
        for r in rows
    ]
    return table(columns, body, caption="Tokens the expert is chosen on", css="tight")


def others(rows: Sequence[Row], name: str, to: Callable[[Row], str], share: str) -> str:
    """Experts beside or after one. rows: with n, lift, lo, hi, the column `name` of the other's number and `share`."""
    columns = [
        Column("expert"),
        Column("tokens", numeric=True),
        Column("of its tokens", numeric=True),
        Column("lift", numeric=True, tip="Over what loads explain, with a 95 % interval"),
    ]
    top = max((r[share] or 0 for r in rows), default=1.0) or 1.0
    body = [
        [
            Cell(link(to(r), f"expert {r[name]}", css="nowrap")),
            text(count(r["n"])),
            Cell(percent(r[share], 2), bar=(r[share] or 0) / top),
            text(interval({**r, "value": r["lift"]}, significant)),
        ]
        for r in rows
    ]
    return table(columns, body, caption="Other experts", css="tight")


def features(rows: Sequence[Row], to: Callable[[int], str], described: Mapping[int, str | None]) -> str:
    """Latents that fire when the expert is chosen. rows: of `routing.features`; described: top tokens by latent."""
    columns = [
        Column("feature"),
        Column("fires most on"),
        Column(
            "fires, if chosen",
            numeric=True,
            tip="Of the tokens that chose the expert, those on which the feature fires",
        ),
        Column(
            "chosen, if it fires",
            numeric=True,
            tip="Of the tokens on which the feature fires, those that chose the expert",
        ),
        Column(
            "lift",
            numeric=True,
            tip="Over independence; its 95 % interval, from a jackknife over groups of text, on hover",
        ),
    ]
    body = [
        [
            Cell(link(to(r["feature"]), str(r["feature"]))),
            Cell(words(described.get(r["feature"]), 2)),
            Cell(percent(r["p_feature_given_expert"], 2), bar=r["p_feature_given_expert"]),
            Cell(percent(r["p_expert_given_feature"], 2), bar=r["p_expert_given_feature"]),
            text(significant(r["lift"]), tip=_evidence(r)),
        ]
        for r in rows
    ]
    return table(columns, body, caption="Features that fire when the expert is chosen", css="tight")


def labels(rows: Sequence[Row], labelling: str) -> str:
    """Share of each label's tokens. rows: of `app_expert.labels`."""
    columns = [
        Column(labelling),
        Column("tokens", numeric=True),
        Column("share", numeric=True, tip="Of the label's tokens that choose it, with a 95 % interval"),
        Column("null", numeric=True, tip="Where shares lie when labels are shuffled among documents"),
    ]
    body = [
        [
            Cell(f"{escape(r['label'])} " + (badge("beyond the null", "info") if outside(r) else "")),
            text(f"{count(r['n'])} of {count(r['n_label'])}"),
            Cell(interval(r, lambda x: percent(x, 2)), bar=r["share"]),
            text(_null(r)),
        ]
        for r in rows
    ]  # fmt: skip
    return table(columns, body, caption=f"Shares by {labelling}", css="tight")


def ablation(rows: Sequence[Row]) -> str:
    """Loss without the expert. rows: of `app_expert.ablation`."""
    top = max((abs(r["change"]) for r in rows), default=1.0) or 1.0
    columns = [
        Column("text"),
        Column("tokens", numeric=True),
        Column("loss", numeric=True, tip="Mean next-token loss of the model as it is, in nats"),
        Column("change without it", numeric=True, tip="In nats a token, with a 95 % interval over documents"),
    ]
    body = [
        [
            text(r["domain"] if r["domain"] is not None else "all text"),
            text(count(r["n_tokens"])),
            text(f"{r['loss']:.4f}"),
            Cell(interval({**r, "value": r["change"]}, _signed), bar=abs(r["change"]) / top, negative=r["change"] < 0),
        ]
        for r in rows
    ]
    return table(columns, body, caption="Loss without the expert", css="tight")


def moved(rows: Sequence[Row]) -> str:
    """Features that move without the expert. rows: of `app_expert.ablated_features`."""
    columns = [
        Column("feature"),
        Column("dictionary"),
        Column("fires", numeric=True, tip="Tokens on which it is active, with the expert and without"),
        Column("summed activation", numeric=True, tip="Change without the expert"),
    ]
    body = [
        [
            text(r["feature"]),
            text(r["dictionary_id"]),
            text(f"{count(r['n_before'])} → {count(r['n_after'])}"),
            text(f"{r['moved'] * 100:+.1f} %" if r["moved"] is not None else "new"),
        ]
        for r in rows
    ]
    return table(columns, body, caption="Features that move without the expert", css="tight")


def _null(row: Row) -> str:
    if row["null_lo"] is None:
        return f"{percent(row['uniform'], 2)} if uniform"
    return f"{percent(row['null_lo'], 2)} to {percent(row['null_hi'], 2)}"


def _evidence(row: Row) -> str:
    lift = f"lift {interval({**row, 'value': row['lift']}, significant)}"
    alone = f"feature on {count(row['n_feature'])}, expert on {count(row['n_expert'])}"
    return f"{lift}\n{count(row['n_both'])} tokens with both; {alone}"


def _expert(layer: int, expert: int, to: Link) -> str:
    return link(to(layer, expert), f"layer {layer} · expert {expert}", css="nowrap")


def _path(path: str, layers: Sequence[int], to: Link) -> str:
    experts = path.split("-")
    return " → ".join(link(to(layer, int(e)), e) for layer, e in zip(layers, experts, strict=False))


def _times(n: float, expected: float | None) -> str:
    return significant(n / expected, 2) if expected else NOTHING


def _chip(row: Row) -> str:
    said = f"{count(row['n'])} of {count(row['n_token'])} occurrences, {significant(row['lift'], 2)} x its usual share"
    return f'<span class="tok" data-tip="{escape(said)}" tabindex="0">{escape(shown(row["text"]))}</span>'


def _signed(x: float | None) -> str:
    return NOTHING if x is None else f"{x:+.4f}"
