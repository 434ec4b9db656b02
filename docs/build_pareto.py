"""Draw docs/img/pareto.svg from what `sparse-rep bench pareto --json` prints: python docs/build_pareto.py pareto.jsonl

Two panels side by side, since reconstruction alone says too little: explained variance, and the share of the model's loss that
is recovered, each against the active latents a token. No plotting library: SVG is text.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

from sparse_rep.app.charts.palette import LINE, PAGE, SERIES, TEXT

OUT = Path(__file__).parent / "img" / "pareto.svg"
PANELS = (("explained_variance", "explained variance"), ("ce_recovered", "loss recovered"))
NAMES = {
    "topk": "TopK", "batchtopk": "BatchTopK", "matryoshka": "Matryoshka", "mp": "MP-SAE",
    "standard": "L1", "jumprelu": "JumpReLU", "gated": "Gated",
}  # fmt: skip
WIDTH, HEIGHT, GAP, LEFT, TOP, BOTTOM = 380, 300, 70, 60, 48, 78
MUTED = "#5b6878"

Point = tuple[float, float]


def read(path: Path) -> dict[str, list[dict[str, float]]]:
    """Rows by method, in order of L0."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return {m: sorted((r for r in rows if r["method"] == m), key=lambda r: r["l0"]) for m in NAMES}


def ticks(low: float, high: float) -> list[float]:
    """About five round values that span low..high."""
    step = 10 ** math.floor(math.log10((high - low) / 4))
    step *= next(m for m in (1, 2, 5, 10) if m * step * 5 >= high - low)
    first = math.floor(low / step)
    return [round(step * i, 10) for i in range(first, math.ceil(high / step) + 1)]


def panel(x0: float, metric: str, title: str, methods: dict[str, list[dict[str, float]]]) -> list[str]:
    """One pair of axes at x0 with a line a method; L0 on a logarithmic scale."""
    points = [(row["l0"], row[metric]) for rows in methods.values() for row in rows]
    marks = ticks(min(y for _, y in points), max(y for _, y in points))
    powers = range(
        math.floor(math.log2(min(x for x, _ in points))), math.ceil(math.log2(max(x for x, _ in points))) + 1
    )

    def place(x: float, y: float) -> Point:
        across = (math.log2(x) - powers[0]) / (powers[-1] - powers[0])
        up = (y - marks[0]) / (marks[-1] - marks[0])
        return x0 + across * WIDTH, TOP + (1 - up) * HEIGHT

    out = [f'<text x="{x0}" y="{TOP - 18}" font-weight="600">{title}</text>']
    for y in marks:
        _, at = place(2.0 ** powers[0], y)
        out.append(f'<line x1="{x0}" x2="{x0 + WIDTH}" y1="{at:.1f}" y2="{at:.1f}" stroke="{LINE.light}"/>')
        out.append(f'<text x="{x0 - 8}" y="{at + 4:.1f}" text-anchor="end" fill="{MUTED}">{y:g}</text>')
    for power in powers:
        at, _ = place(2.0**power, marks[0])
        out.append(
            f'<text x="{at:.1f}" y="{TOP + HEIGHT + 18}" text-anchor="middle" fill="{MUTED}">{2**power:g}</text>'
        )
    out.append(
        f'<text x="{x0 + WIDTH / 2}" y="{TOP + HEIGHT + 36}" text-anchor="middle" fill="{MUTED}">'
        "active latents a token (L0)</text>"
    )
    for colour, rows in zip(SERIES, methods.values(), strict=True):
        line = [place(row["l0"], row[metric]) for row in rows]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in line)
        out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        out += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.2" fill="{colour}"/>' for x, y in line]
    return out


def figure(methods: dict[str, list[dict[str, float]]]) -> str:
    """The whole picture as SVG."""
    total, height = LEFT + 2 * WIDTH + GAP + 20, TOP + HEIGHT + BOTTOM
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total} {height}" font-size="12"'
        f' font-family="Inter, Helvetica, Arial, sans-serif" fill="{TEXT.light}" role="img"'
        ' aria-label="Explained variance and loss recovered against L0">',
        f'<rect width="{total}" height="{height}" fill="{PAGE.light}"/>',
    ]
    for place, (metric, title) in enumerate(PANELS):
        out += panel(LEFT + place * (WIDTH + GAP), metric, title, methods)
    for place, (kind, colour) in enumerate(zip(methods, SERIES, strict=True)):
        x, y = LEFT + place * (total - LEFT) / len(methods), height - 16
        out.append(
            f'<line x1="{x:.0f}" x2="{x + 18:.0f}" y1="{y - 4}" y2="{y - 4}" stroke="{colour}" stroke-width="3"/>'
        )
        out.append(f'<text x="{x + 24:.0f}" y="{y}">{NAMES[kind]}</text>')
    return "\n".join([*out, "</svg>"]) + "\n"


if __name__ == "__main__":
    OUT.write_text(figure(read(Path(sys.argv[1]))))
