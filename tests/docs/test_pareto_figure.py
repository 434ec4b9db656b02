"""The figure of the Pareto: every method in both panels, every point where its figures say."""

import importlib.util
import itertools
import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from sparse_rep.config_dictionary import ARCHITECTURES

spec = importlib.util.spec_from_file_location(
    "build_pareto", Path(__file__).resolve().parents[2] / "docs" / "build_pareto.py"
)
assert spec is not None
assert spec.loader is not None
builder = importlib.util.module_from_spec(spec)
spec.loader.exec_module(builder)

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def drawn(tmp_path: Path) -> ElementTree.Element:
    rows = [
        {"method": kind, "l0": l0, "explained_variance": 0.5 + l0 / 200 + place / 100, "ce_recovered": 0.9 + l0 / 1000}
        for place, kind in enumerate(builder.NAMES)
        for l0 in (64.0, 8.0)
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return ElementTree.fromstring(builder.figure(builder.read(tmp_path / "rows.jsonl")))


def test_every_architecture_is_named_and_drawn_in_both_panels(drawn: ElementTree.Element) -> None:
    assert set(builder.NAMES) == set(ARCHITECTURES)
    assert len(drawn.findall(f"{SVG}polyline")) == 2 * len(ARCHITECTURES)
    said = {text.text for text in drawn.findall(f"{SVG}text")}
    assert set(builder.NAMES.values()) <= said


def test_points_lie_inside_their_panel_and_rise_as_their_figures_do(drawn: ElementTree.Element) -> None:
    left = [line.attrib["points"].split() for line in drawn.findall(f"{SVG}polyline")][: len(ARCHITECTURES)]
    ends = [[tuple(map(float, point.split(","))) for point in line] for line in left]
    for (x0, y0), (x1, y1) in ends:
        assert builder.LEFT <= x0 < x1 <= builder.LEFT + builder.WIDTH
        assert builder.TOP <= y1 < y0 <= builder.TOP + builder.HEIGHT
    heights = [line[0][1] for line in ends]
    assert heights == sorted(heights, reverse=True), "each explains 0.01 more than the one before"


@pytest.mark.parametrize(("low", "high"), [(0.61, 0.98), (0.915, 0.993), (-0.2, 1.0), (3.0, 4.0)])
def test_ticks_are_few_and_span_the_figures(low: float, high: float) -> None:
    marks = builder.ticks(low, high)
    assert marks[0] <= low < high <= marks[-1]
    assert 3 <= len(marks) <= 8
    steps = {round(b - a, 9) for a, b in itertools.pairwise(marks)}
    assert len(steps) == 1
