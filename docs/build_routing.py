"""Draw the figures of docs/routing.md: python docs/build_routing.py STORE

STORE holds one routing profile, made by the command at the top of that page. The loss curve comes from the recipe that
ships with the weights. No plotting library: SVG is text.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sparse_rep.app.charts.palette import HEAT, LINE, OPPOSITE, PAGE, SERIES, TEXT
from sparse_rep.hosting.locate import SHIPPED
from sparse_rep.store import Store

IMAGES = Path(__file__).parent / "img"
GREY = "#5b6878"
CELL, LEFT, TOP = 40, 56, 58
DOMAINS = ("stdlib", "pip-readmes", "pydoc-topics", "c-headers")
UNIFORM = 2 / 8
Shapes = list[str]


def loss() -> str:
    """Training loss, and held-out loss by domain, against steps."""
    recipe = json.loads((SHIPPED / "toy-moe" / "recipe.json").read_text())
    curve = recipe["curve"]
    place = axes_place(0, 0, 520, 260, (0, curve[-1]["step"]), (1.5, 4.5))
    out = axes(0, 520, 260, place, [p["step"] for p in curve], [1.5, 2, 2.5, 3, 3.5, 4, 4.5], "step of 16,384 tokens")
    out.append(text(LEFT, TOP - 18, "loss, nats a token", weight=600))
    names = ("train", *DOMAINS)
    for row, (name, colour) in enumerate(zip(names, SERIES, strict=False)):
        values = [p["train"] if name == "train" else p["heldout"][name] for p in curve]
        points = [place(p["step"], v) for p, v in zip(curve, values, strict=True)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        dash = ' stroke-dasharray="6 4"' if name == "train" else ""
        out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>')
        out += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in points]
        label = "training windows" if name == "train" else f"held out: {name}"
        out += [square(LEFT + 545, TOP + 24 * row, colour, 12), text(LEFT + 564, TOP + 24 * row + 11, label)]
    return svg(LEFT + 740, TOP + 310, "Loss of the toy mixture while it was trained", out)


def by_layer(rows: list[dict[str, Any]]) -> str:
    """Load entropy and information about the domain, layer by layer, each with its interval over its null."""
    out: Shapes = []
    panels = (
        ("load_entropy", "load entropy, share of log experts", (0.94, 1.0), [0.94, 0.96, 0.98, 1.0]),
        ("mi_domain", "information of expert about domain, bits", (0.0, 0.4), [0, 0.1, 0.2, 0.3, 0.4]),
    )
    for panel, (metric, title, span, marks) in enumerate(panels):
        x0, mine = panel * 400, [r for r in rows if r["metric"] == metric]
        place = axes_place(x0, 0, 320, 240, (-0.5, len(mine) - 0.5), span)
        out += axes(x0, 320, 240, place, range(len(mine)), marks, "layer")
        out.append(text(x0 + LEFT, TOP - 18, title, weight=600))
        for r in mine:
            x, y = place(r["layer"], r["value"])
            (_, low), (_, high) = place(0, r["lo"]), place(0, r["hi"])
            (_, null_low), (_, null_high) = place(0, r["null_lo"]), place(0, r["null_hi"])
            band = max(null_low - null_high, 3)
            out.append(
                f'<rect x="{x - 16:.1f}" y="{null_high - (band == 3) * 1.5:.1f}" width="32" height="{band:.1f}" fill="{GREY}"'
                ' fill-opacity="0.45"/>'
            )
            out.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}" stroke="{SERIES[0]}"/>')
            out.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{SERIES[0]}"/>')
    out += [
        square(LEFT, TOP + 300, SERIES[0], 12),
        text(LEFT + 18, TOP + 311, "measured, 95 % interval over documents"),
    ]
    out += [square(LEFT + 320, TOP + 300, GREY, 12), text(LEFT + 338, TOP + 311, "its null, central 95 %")]
    return svg(LEFT + 740, TOP + 330, "Load entropy and information about the domain by layer", out)


def domains(rows: list[dict[str, Any]]) -> str:
    """For each domain, the share of its tokens that each expert of each layer receives."""
    out: Shapes = []
    for panel, domain in enumerate(DOMAINS):
        mine = [r for r in rows if r["label"] == domain]
        cells = [(r["layer"], r["expert"], r["share"], r["share"] > r["null_hi"]) for r in mine]
        x0, y0 = panel % 2 * 420, panel // 2 * 340
        out += grid(x0, y0, f"share of {domain} tokens", cells, lambda v: (v - UNIFORM) / 0.5, ("expert", "layer"))
    return svg(LEFT + 780, TOP + 640, "Share of each domain's tokens by layer and expert", out)


def pairs(together: list[dict[str, Any]], steps: list[dict[str, Any]]) -> str:
    """Experts of the last layer chosen together, and first choices from the layer before it to it."""
    out = grid(
        0,
        0,
        "layer 5: chosen together, lift",
        [(r["expert"], r["other"], r["lift"], False) for r in together],
        lambda v: (v - 1) / 2 if v >= 1 else v - 1,
        ("expert", "expert"),
    )
    out += grid(
        420,
        0,
        "first choice at layer 4 (rows), then at 5: lift",
        [(r["expert"], r["next_expert"], r["lift"], False) for r in steps],
        lambda v: (v - 1) / 2 if v >= 1 else v - 1,
        ("expert of layer 5", "expert of layer 4"),
    )
    return svg(LEFT + 780, TOP + 380, "Experts chosen together, and one layer after the other", out)


def grid(
    x0: float,
    y0: float,
    title: str,
    cells: list[tuple[int, int, float, bool]],
    scale: Callable[[float], float],
    names: tuple[str, str],
) -> Shapes:
    """(row, column, value, bold) as coloured cells: orange above what is expected (scale > 0), blue below."""
    n_rows, n_columns = (max(c[i] for c in cells) + 1 for i in (0, 1))
    left, top = x0 + LEFT, y0 + TOP
    out = [text(left, top - 30, title, weight=600)]
    for row, column, value, bold in cells:
        level = max(-1.0, min(1.0, scale(value)))
        colour = HEAT.light if level >= 0 else OPPOSITE.light
        x, y = left + column * CELL, top + row * CELL
        out.append(
            f'<rect x="{x}" y="{y}" width="{CELL - 2}" height="{CELL - 2}" fill="{colour}" fill-opacity="{abs(level):.2f}"'
            f' stroke="{LINE.light}"/>'
        )
        shown = f"{value:.2f}"
        weight = 700 if bold else 400
        out.append(text(x + CELL / 2 - 1, y + CELL / 2 + 3, shown, "middle", weight=weight, size=11))
    out += [text(left + c * CELL + CELL / 2, top - 8, str(c), "middle", GREY) for c in range(n_columns)]
    out += [text(left - 8, top + r * CELL + CELL / 2 + 3, str(r), "end", GREY) for r in range(n_rows)]
    out.append(text(left + n_columns * CELL / 2, top + n_rows * CELL + 16, names[0], "middle", GREY))
    at = top + n_rows * CELL / 2
    out.append(
        f'<text transform="translate({x0 + 22},{at}) rotate(-90)" text-anchor="middle" fill="{GREY}">{names[1]}</text>'
    )
    return out


def axes_place(
    x0: float, y0: float, width: float, height: float, across: tuple[float, float], up: tuple[float, float]
) -> Callable[[float, float], tuple[float, float]]:
    """From data to the page."""

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            x0 + LEFT + (x - across[0]) / (across[1] - across[0]) * width,
            y0 + TOP + (1 - (y - up[0]) / (up[1] - up[0])) * height,
        )

    return place


def axes(x0: float, width: float, height: float, place: Callable[..., Any], xs: Any, ys: Any, name: str) -> Shapes:
    out = []
    for y in ys:
        at = place(0, y)[1]
        out.append(
            f'<line x1="{x0 + LEFT}" x2="{x0 + LEFT + width}" y1="{at:.1f}" y2="{at:.1f}" stroke="{LINE.light}"/>'
        )
        out.append(text(x0 + LEFT - 8, at + 4, f"{y:g}", "end", GREY))
    out += [text(place(x, 0)[0], TOP + height + 18, f"{x:g}", "middle", GREY) for x in xs]
    return [*out, text(x0 + LEFT + width / 2, TOP + height + 36, name, "middle", GREY)]


def text(
    x: float, y: float, words: str, anchor: str = "start", fill: str = TEXT.light, weight: int = 400, size: int = 12
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{fill}" font-weight="{weight}" font-size="{size}">'
        f"{words}</text>"
    )


def square(x: float, y: float, fill: str, size: float) -> str:
    return f'<rect x="{x}" y="{y}" width="{size}" height="{size}" fill="{fill}"/>'


def svg(width: float, height: float, label: str, shapes: Shapes) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-size="12" role="img"'
        f' font-family="Inter, Helvetica, Arial, sans-serif" aria-label="{label}">'
    )
    return "\n".join([head, f'<rect width="{width}" height="{height}" fill="{PAGE.light}"/>', *shapes, "</svg>"]) + "\n"


def main(store: Store) -> None:
    def rows(sql: str) -> list[dict[str, Any]]:
        return store.query(sql).to_pylist()

    figures = {
        "toy-moe-loss": loss(),
        "routing-by-layer": by_layer(rows("SELECT * FROM routing_metrics ORDER BY layer")),
        "routing-domains": domains(rows("SELECT * FROM expert_labels WHERE labelling = 'domain'")),
        "routing-pairs": pairs(
            rows("SELECT * FROM expert_coact WHERE layer = 5 AND expert <> other"),
            rows("SELECT * FROM expert_transitions WHERE layer = 4"),
        ),
    }
    for name, figure in figures.items():
        (IMAGES / f"{name}.svg").write_text(figure)


if __name__ == "__main__":
    main(Store(Path(sys.argv[1])))
