"""The blocks of the overview as HTML: rows of the app_overview queries in, one string out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from sparse_rep.app import links
from sparse_rep.app.components.blocks import Cell, Column, Figure, Tone, badge, figures, link, table, text
from sparse_rep.app.wording import NOTHING, count, percent, significant, size

if TYPE_CHECKING:
    from sparse_rep.app.subject import Subject

Row = Mapping[str, Any]

TONES: dict[str, Tone] = {"sealed": "good", "complete": "info", "live": "warn", "failed": "bad", "damaged": "bad"}
MEANING = {
    "sealed": "Every page of it is ready",
    "complete": "All shards are there; seal it to get its pages",
    "live": "Being written, or stopped half-way: the same command goes on from there",
    "failed": "Stopped by an error",
    "damaged": "Its files disagree with its manifest; it is left out everywhere else",
}

PAGES = {"routing": "routing"}
"""Pages about a whole run, by its kind."""
HASHES = ("config_hash", "content_hash")
MADE_BY = ("code_version", "kernel")


def dictionary_card(row: Row, domains: Sequence[Row], pages: Subject | None) -> str:
    """One dictionary: what it is, held-out figures, where to look inside. `pages` is None until a run of it is sealed."""
    name = escape(row["dictionary_id"])
    if pages is not None:
        name = link(links.href("features", run=pages.run_id, dictionary=pages.dictionary_id), row["dictionary_id"])
    kind = badge((row["kind"] or "unknown kind").replace("_", " "), "bad" if row["kind"] == "damaged" else "info")
    note = f" ({escape(row['model_note'])})" if row["model_note"] else ""
    model = f"{escape(row['model'])}{note}" if row["model"] else escape(row["model_note"] or "no model named")
    hook = f"<code>{escape(row['hook'])}</code> of " if row["hook"] else ""
    by_domain = " · ".join(f"{row['domain']} {percent(row['value'])}" for row in domains[:4])
    dead = row["dead_share"] if row["dead_share"] is not None else (pages.n_dead / pages.n_latents if pages else None)
    k = f"k = {row['k']}" if row["k"] else "varies by token"
    cells = [
        Figure(
            "Explained variance",
            percent(row["explained_variance"]),
            by_domain,
            "On held-out documents, over all domains",
        ),
        Figure("L0", significant(row["l0"]), k, "Active latents a token, mean over held-out tokens"),
        Figure("Dead", percent(dead), "of latents", "Share of latents that never fired"),
        Figure("Latents", count(row["n_latents"]), f"d = {count(row['d_in'])}" if row["d_in"] else ""),
    ]
    foot = ""
    if pages is not None:
        address = {"run": pages.run_id, "dictionary": pages.dictionary_id}
        parts = [link(links.href("features", **address), f"{count(pages.n_latents)} features")]
        for word, n in (("dead", pages.n_dead), ("rare", pages.n_rare), ("dense", pages.n_dense)):
            if n:
                parts.append(link(links.href("features", **address, show=word), f"{count(n)} {word}"))
        foot = f'<p class="quiet">{" · ".join(parts)}</p>'
    else:
        foot = '<p class="quiet">No sealed run yet, so no feature pages.</p>'
    return f'<article class="card"><h3>{name} {kind}</h3><p class="quiet">{hook}{model}</p>{figures(cells)}{foot}</article>'


def runs_table(rows: Sequence[Row]) -> str:
    """Runs with status, progress and provenance."""
    columns = [
        Column("run"),
        Column("status"),
        Column("shards", numeric=True, tip="Committed of planned"),
        Column("tokens", numeric=True),
        Column("codes", numeric=True),
        Column("bytes a code", numeric=True, tip="Size of the committed code files over the codes in them"),
        Column("model and text"),
        Column("provenance", tip="Hash of the config · hash of the content · code version · kernel that ran"),
        Column("updated"),
    ]
    return table(columns, map(_run, rows), caption="Runs of the store")


def _run(row: Row) -> list[Cell]:
    status = row["status"] or "unknown"
    done, planned = row["n_shards"], row["n_shards_planned"]
    progress = f"{done} of {planned}" if planned else count(done)
    per_code = row["bytes"] / row["n_rows"] if row["n_rows"] else None
    hashes = [f"<code>{escape(str(row[key])[:8])}</code>" for key in HASHES if row[key]]
    others = [escape(str(row[key])) for key in MADE_BY if row[key]]
    whole = "\n".join(f"{key.replace('_', ' ')}: {row[key]}" for key in HASHES + MADE_BY if row[key])
    model = " · ".join(escape(str(row[key])) for key in ("model", "corpus_id") if row[key])
    updated = row["updated"].strftime("%Y-%m-%d %H:%M") if row["updated"] else NOTHING
    return [
        Cell(f"{_name(row)}<br><span class='quiet'>{escape(row['kind'] or '')}</span>"),
        Cell(badge(status, TONES.get(status, "plain"), MEANING.get(status, "")), tip=row["note"] or ""),
        Cell(progress + (_progress(done / planned) if planned and done < planned else "")),
        text(count(row["n_tokens"])),
        text(count(row["n_rows"]), tip=f"{size(row['bytes'])} on disk"),
        text(f"{per_code:.2f}" if per_code else NOTHING),
        Cell(model),
        Cell(" ".join(hashes + others), tip=whole),
        text(updated),
    ]


def _name(row: Row) -> str:
    """The run's id, as a link where a kind of run has a page of its own."""
    page = PAGES.get(row["kind"])
    return link(links.href(page, run=row["run_id"]), row["run_id"]) if page else escape(row["run_id"])


def _progress(share: float) -> str:
    return f'<div class="progress" aria-hidden="true"><i style="--w:{100 * share:.0f}%"></i></div>'


def corpora_table(rows: Sequence[Row]) -> str:
    """Corpora by domain."""
    columns = [
        Column("text"), Column("domain"), Column("documents", numeric=True), Column("held out", numeric=True),
        Column("tokens", numeric=True),
    ]  # fmt: skip
    totals: dict[str, int] = {}
    for row in rows:
        totals[row["corpus_id"]] = totals.get(row["corpus_id"], 0) + row["n_tokens"]
    body = [
        [
            text(row["corpus_id"]), text(row["domain"] or NOTHING), text(count(row["n_docs"])), text(count(row["n_heldout"])),
            Cell(count(row["n_tokens"]), bar=row["n_tokens"] / totals[row["corpus_id"]]),
        ]
        for row in rows
    ]  # fmt: skip
    return table(columns, body, caption="Texts of the store")
