"""The blocks of a feature page as HTML: rows of the app_feature queries in, one string out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

from sparse_rep.app import links
from sparse_rep.app.components.blocks import Cell, Column, Figure, badge, figures, link, table, text
from sparse_rep.app.limits import DENSE, RARE
from sparse_rep.app.wording import count, percent, shown, significant

Row = Mapping[str, Any]
Link = Callable[[int], str]


def badges(row: Row) -> str:
    """What to beware of about a feature, in a word."""
    if row["dead"]:
        return badge("dead", "bad", "Active on no token of this text")
    if row["frac_nonzero"] > DENSE:
        return badge("dense", "warn", f"Fires on more than {percent(DENSE)} of tokens: too often to mean one thing")
    if row["frac_nonzero"] < RARE:
        return badge("rare", "info", f"Fires on less than {percent(RARE)} of tokens: few examples to judge by")
    return ""


def tokens_line(tokens: Sequence[Row]) -> str:
    """`fires most on ...`: a description made of data, not of a model's opinion."""
    chips = "".join(f'<span class="tok">{escape(shown(row["text"]))}</span> ' for row in tokens[:5])
    return f'<div class="about"><span>fires most on {chips}</span></div>' if chips else ""


def numbers(row: Row, n_docs: int | None, n_latents: int) -> str:
    """Density, strength and spread."""
    per_doc = row["n_active"] / row["n_docs"] if row["n_docs"] else None
    interval = f"{percent(row['frac_lo'], 2)} to {percent(row['frac_hi'], 2)}" if row["frac_lo"] is not None else ""
    fair = 1 / n_latents
    energy = row["energy_share"]
    return figures(
        [
            Figure("Density", percent(row["frac_nonzero"]), interval, "Share of tokens it fires on, with a 95 % Wilson interval"),
            Figure("Tokens", count(row["n_active"]), "on which it fires"),
            Figure("Mean", significant(row["mean_act"]), "when it fires"),
            Figure("Maximum", significant(row["max_act"]), "activation"),
            Figure(
                "Documents", count(row["n_docs"]), f"of {count(n_docs)}" if n_docs else "",
                f"Documents in which it fires at least once; {significant(per_doc)} times in each of them on average",
            ),
            Figure("Burst", significant(per_doc), "times a document", "Tokens on which it fires, per document in which it fires"),
            Figure(
                "Energy", percent(energy), f"{significant(energy / fair)} times a fair share" if energy is not None else "",
                "Its share of the dictionary's summed squared activations; "
                f"with {count(n_latents)} latents a fair share is {percent(fair)}",
            ),
            Figure("Seen", count(row["tok_first"]), f"to {count(row['tok_last'])}", "First and last token on which it fires"),
        ]
    )  # fmt: skip


def logits(rows: Sequence[Row], sign: int, search: Callable[[str], str]) -> str:
    """Tokens that the feature promotes (sign 1) or suppresses (-1), strongest first."""
    mine = [row for row in rows if row["sign"] == sign]
    top = max((abs(row["value"]) for row in rows), default=1.0) or 1.0
    columns = [Column("promotes" if sign > 0 else "suppresses"), Column("logit", numeric=True)]
    body = [
        [
            Cell(_token(row["token"], search(row["token"]))),
            Cell(f"{row['value']:+.2f}", bar=abs(row["value"]) / top, negative=sign < 0),
        ]
        for row in mine
    ]
    return table(columns, body, caption="Direct effect on output logits", css="tight")


def token_types(rows: Sequence[Row], search: Callable[[str], str]) -> str:
    """Token types it fires on."""
    columns = [
        Column("token"),
        Column("times", numeric=True, tip="Tokens of this type on which it fires"),
        Column("share", numeric=True, tip="Share of the feature's firings that are this token"),
        Column("recall", numeric=True, tip="Share of this token's occurrences on which the feature fires"),
        Column("mean", numeric=True, tip="Mean activation on them"),
    ]
    body = [
        [
            Cell(_token(row["text"], search(row["text"]))),
            text(count(row["n"])),
            Cell(percent(row["share"], 2), bar=row["share"]),
            Cell(percent(row["recall"], 2), bar=row["recall"]),
            text(significant(row["mean_act"])),
        ]
        for row in rows
    ]
    return table(columns, body, caption="Token types the feature fires on", css="tight")


def coactivation(rows: Sequence[Row], to: Link) -> str:
    """Features that fire on the same tokens."""
    columns = [
        Column("feature"),
        Column("fires most on"),
        Column(
            "P(other | this)",
            numeric=True,
            tip="Of the tokens on which this fires, the share on which the other fires too",
        ),
        Column(
            "P(this | other)",
            numeric=True,
            tip="Of the tokens on which the other fires, the share on which this fires too",
        ),
        Column("lift", numeric=True, tip="Times more often together than if they were independent"),
        Column("Jaccard", numeric=True, tip="Tokens with both over tokens with either"),
    ]
    body = [
        [
            Cell(link(to(row["other"]), str(row["other"]))),
            Cell(words(row["top_tokens"])),
            Cell(percent(row["p_other_given_feature"], 2), bar=row["p_other_given_feature"]),
            Cell(percent(row["p_feature_given_other"], 2), bar=row["p_feature_given_other"]),
            text(significant(row["lift"])),
            text(significant(row["jaccard"])),
        ]
        for row in rows
    ]
    return table(columns, body, caption="Features active on the same tokens", css="tight")


def neighbors(rows: Sequence[Row], to: Link) -> str:
    """Features whose atoms point the same way."""
    columns = [
        Column("feature"),
        Column("fires most on"),
        Column("cosine", numeric=True, tip="Between the two atoms (decoder rows)"),
    ]
    body = [
        [
            Cell(link(to(row["other"]), str(row["other"])) + (" " + badge("dead", "bad") if row["dead"] else "")),
            Cell(words(row["top_tokens"])),
            Cell(f"{row['cosine']:.3f}", bar=abs(row["cosine"]), negative=row["cosine"] < 0),
        ]
        for row in rows
    ]
    return table(columns, body, caption="Features with the nearest atoms", css="tight")


def search_link(run: str, dictionary: str) -> Callable[[str], str]:
    """Where clicking a token leads: the features of the dictionary that fire on it."""
    return lambda token: links.href("features", run=run, dictionary=dictionary, q=token.strip() or None)


def _token(token: str | None, address: str) -> str:
    return f'<span class="tok">{link(address, shown(token), tip="Which features fire on it?")}</span>'


def words(top_tokens: str | None, n: int = 3) -> str:
    """The first tokens of `features.top_tokens` as chips; the column joins them with ` · `."""
    chips = "".join(f'<span class="tok">{escape(shown(t))}</span>' for t in (top_tokens or "").split(" · ")[:n] if t)
    return f'<div class="chips">{chips}</div>'
