"""Charts are functions of rows: what they draw is checked on figures small enough to do by hand."""

import pytest

from sparse_rep.app.charts.activations import activation_histogram
from sparse_rep.app.charts.density import density_histogram
from sparse_rep.app.charts.domains import domain_densities
from sparse_rep.app.charts.training import training_curves


def test_a_bar_stands_on_its_bin_and_empty_bins_are_not_drawn():
    bins = [{"lo": 0.0, "hi": 1.0, "n": 100}, {"lo": 1.0, "hi": 2.0, "n": 0}, {"lo": 2.0, "hi": 4.0, "n": 1}]
    figure = activation_histogram(bins, edges=[1.0, 2.0])
    (bars,) = figure.data
    assert list(bars.x) == [0.5, 3.0]
    assert list(bars.y) == [100, 1]
    assert list(bars.width) == [pytest.approx(0.94), pytest.approx(1.88)]
    assert [shape.x0 for shape in figure.layout.shapes] == [1.0, 2.0]


def test_counts_are_drawn_on_a_log_scale_labelled_with_the_counts():
    figure = activation_histogram([{"lo": 0.0, "hi": 1.0, "n": 12_345}], edges=[])
    assert figure.layout.yaxis.type == "log"
    assert list(figure.layout.yaxis.ticktext) == ["1", "10", "100", "1,000", "10.0 k"]
    assert figure.layout.yaxis.title.text == "tokens (log)"


def test_the_filter_is_drawn_over_the_whole():
    bins = [{"log_lo": -2.0, "n": 5, "n_kept": 2}, {"log_lo": -1.8, "n": 7, "n_kept": 0}]
    everything, kept = density_histogram(bins).data
    assert list(everything.y) == [5, 7]
    assert list(kept.y) == [2, 0]
    assert list(everything.x) == list(kept.x) == [pytest.approx(-1.9), pytest.approx(-1.7)]


def test_density_is_labelled_in_percent_at_powers_of_ten():
    figure = density_histogram([{"log_lo": -2.8, "n": 1, "n_kept": 1}])
    assert list(figure.layout.xaxis.tickvals) == [-3, -2, -1, 0]
    assert list(figure.layout.xaxis.ticktext) == ["0.1 %", "1 %", "10 %", "100 %"]


def test_the_densest_domain_is_on_top_and_the_line_stands_at_the_overall_density():
    rows = [
        {"domain": "code", "n_active": 9, "frac_nonzero": 0.3},
        {"domain": "prose", "n_active": 1, "frac_nonzero": 0.01},
    ]
    figure = domain_densities(rows, overall=0.1)
    (bars,) = figure.data
    assert list(bars.y) == ["prose", "code"], "plotly draws upwards"
    assert list(bars.x) == [pytest.approx(1.0), pytest.approx(30.0)]
    assert figure.layout.shapes[0].x0 == pytest.approx(10.0)


def test_each_dictionary_has_a_line_and_one_alone_needs_no_legend():
    points = [{"dictionary_id": "b", "step": s, "value": s / 10} for s in (1, 2)]
    assert not training_curves(points, "ev").layout.showlegend
    points.append({"dictionary_id": "a", "step": 1, "value": 0.5})
    figure = training_curves(points, "ev")
    assert [line.name for line in figure.data] == ["a", "b"]
    assert [line.mode for line in figure.data] == ["markers", "lines"]
    assert figure.layout.showlegend


@pytest.mark.parametrize(
    "figure",
    [
        activation_histogram([], []),
        density_histogram([]),
        training_curves([], "ev"),
        domain_densities([], 0.0),
    ],
)
def test_nothing_to_draw_is_an_empty_figure_with_labelled_axes(figure):
    assert all(not trace.y for trace in figure.data)
    assert figure.layout.xaxis.title.text
