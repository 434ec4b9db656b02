"""Charts of routing are functions of rows: checked on cases small enough to do by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparse_rep.app.charts import routing, routing_flow, routing_pairs


def load(layer: int, expert: int, n: int, of_fair: float) -> dict:
    return {
        "layer": layer, "expert": expert, "n_tokens": n, "of_fair": of_fair, "share": 0.1, "lo": 0.05, "hi": 0.2, "uniform": 0.1
    }  # fmt: skip


def step(
    layer: int, expert: int, nxt: int, other: int, n: int, lo: float | None = None, hi: float | None = None
) -> dict:
    return {
        "layer": layer, "expert": expert, "next_layer": nxt, "next_expert": other, "n": n, "p": 0.5, "expected": 1.0,
        "lift": 1.0, "lo": lo, "hi": hi,
    }  # fmt: skip


def test_a_load_is_drawn_by_its_log_and_a_dead_expert_is_crossed_out():
    heat, cross = routing.loads([load(1, 0, 40, 4.0), load(1, 1, 10, 1.0), load(3, 0, 0, 0.0), load(3, 1, 5, 0.5)]).data
    assert [list(row) for row in heat.z] == [[2.0, 0.0], [None, -1.0]]
    assert list(heat.y) == ["layer 1", "layer 3"]
    assert (heat.zmin, heat.zmax) == (-2, 2), "what is as expected keeps the middle colour"
    assert (list(cross.x), list(cross.y)) == ([0], ["layer 3"])
    assert "10.0 % (5.00 % to 20.0 %) of tokens" in heat.text[0][0]


def test_what_the_colours_cannot_tell_apart_is_said_on_the_bar():
    scale = routing.diverging([[-4.0, 0.0, 1.0]], "lift")
    assert list(scale["colorbar"]["ticktext"]) == ["≤ 0.5", "1", "2"]
    assert list(routing.diverging([[6.0]], "lift")["colorbar"]["ticktext"])[-1] == "≥ 16"


def test_a_figure_stands_over_the_band_of_its_null_with_its_interval():
    rows = [
        {"layer": n, "value": 0.5, "lo": 0.4, "hi": 0.7, "null_value": 0.2, "null_lo": 0.1, "null_hi": 0.3} for n in (0, 2)
    ]  # fmt: skip
    low, high, null, measured = routing.by_layer(rows, "bits").data
    assert (list(low.y), list(high.y), list(null.y)) == ([0.1, 0.1], [0.3, 0.3], [0.2, 0.2])
    assert high.fill == "tonexty"
    assert list(measured.error_y.array) == pytest.approx([0.2, 0.2])
    assert list(measured.error_y.arrayminus) == pytest.approx([0.1, 0.1])


def test_a_figure_without_a_null_has_no_band_and_no_legend():
    rows = [{"layer": 0, "value": 1.0, "lo": None, "hi": None, "null_value": None, "null_lo": None, "null_hi": None}]
    figure = routing.by_layer(rows, "score")
    assert len(figure.data) == 1
    assert not figure.layout.showlegend


@given(st.integers(0, 2**16), st.integers(2, 12))
def test_the_cluster_order_names_every_row_once(seed, n):
    affinity = np.random.default_rng(seed).random((n, n))
    assert sorted(routing_pairs.clustered(affinity + affinity.T)) == list(range(n))


def test_friends_lie_side_by_side():
    friends = np.zeros((8, 8))
    for a, b in ((0, 5), (1, 6), (2, 7), (3, 4)):
        friends[a, b] = friends[b, a] = 7.0
    order = routing_pairs.clustered(friends)
    for a, b in ((0, 5), (1, 6), (2, 7), (3, 4)):
        assert abs(order.index(a) - order.index(b)) == 1


def coact(a: int, b: int, n: int, adjacent: int, lift: float) -> dict:
    return {
        "expert": a, "other": b, "n": n, "n_adjacent": adjacent, "p_other_given_expert": 0.4, "expected": 5.0, "lift": lift,
        "lo": None, "hi": None,
    }  # fmt: skip


def test_adjacent_ranks_are_their_part_of_all_pairs():
    rows = [coact(0, 1, 10, 5, 2.0), coact(1, 0, 10, 5, 2.0)]
    cells = {}
    for measure in ("lift", "share", "adjacent"):
        (heat,) = routing_pairs.together(rows, measure).data
        cells[measure] = {value for row in heat.z for value in row if value is not None}
    assert cells == {"lift": {1.0}, "share": {40.0}, "adjacent": {20.0}}


def share(expert: int, label: str, value: float, null: tuple[float, float] | None = None) -> dict:
    lo, hi = null if null else (None, None)
    return {
        "expert": expert, "label": label, "n": 1, "n_label": 10, "share": value, "lo": value - 0.01, "hi": value + 0.01,
        "uniform": 0.25, "null_lo": lo, "null_hi": hi,
    }  # fmt: skip


def test_experts_stand_by_the_label_they_prefer_and_a_dot_marks_what_is_beyond_the_null():
    rows = [share(0, "b", 0.5, (0.2, 0.3)), share(0, "a", 0.25, (0.2, 0.3)), share(1, "b", 0.25), share(1, "a", 0.5)]
    heat, dots = routing_pairs.labels(rows).data
    assert list(heat.y) == ["b", "a"]
    assert list(heat.x) == ["0", "1"]
    assert [list(row) for row in heat.z] == [[1.0, 0.0], [0.0, 1.0]]
    assert set(zip(dots.x, dots.y, strict=True)) == {("0", "b"), ("1", "a")}


def test_columns_of_two_routers_follow_the_rows_that_use_them():
    rows = [{"expert": 0, "other": 5, "n": 9}, {"expert": 0, "other": 2, "n": 1}, {"expert": 1, "other": 2, "n": 4}]
    heat = routing_pairs.confusion(rows, "b", "a").data[0]
    assert list(heat.x) == ["5", "2"]
    assert [list(row) for row in heat.z] == [[90.0, 10.0], [0.0, 100.0]]


def test_a_step_joins_its_two_experts_and_takes_its_colour_from_the_interval():
    figure = routing_flow.flow([step(0, 3, 1, 3, 10, 1.2, 2.0), step(0, 3, 1, 4, 5, 0.2, 0.8), step(0, 1, 1, 4, 1)])
    (sankey,) = figure.data
    names = [sankey.node.customdata[i] for i in (*sankey.link.source, *sankey.link.target)]
    assert [name.removeprefix("layer ") for name in names] == [
        "0, expert 3", "0, expert 3", "0, expert 1", "1, expert 3", "1, expert 4", "1, expert 4"
    ]  # fmt: skip
    assert list(sankey.link.value) == [10, 5, 1]
    assert list(sankey.link.color) == [routing_flow.MORE, routing_flow.LESS, routing_flow.AS_EXPECTED]
    assert all(0 < y < 1 for y in sankey.node.y)
    assert [a.text for a in figure.layout.annotations] == ["layer 0", "layer 1"]


@pytest.mark.parametrize(
    "figure",
    [
        routing.loads([]), routing.by_layer([], "bits"), routing.agreements({}), routing_pairs.together([], "lift"),
        routing_pairs.labels([]), routing_pairs.confusion([], "a", "b"), routing_flow.flow([]),
    ],
)  # fmt: skip
def test_nothing_to_draw_is_a_figure_without_marks(figure):
    assert not any(len(trace.y if trace.y is not None else ()) for trace in figure.data if trace.type == "scatter")
