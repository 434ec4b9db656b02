"""The parts of the analysis on cases small enough to work by hand, and against other people's software."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sparse_rep.routing.analysis.coactivation import conditional, expected_pairs
from sparse_rep.routing.analysis.information import common, mutual_information, rotations, table
from sparse_rep.routing.analysis.intervals import jackknife, student, uniform_loads, uniform_weights
from sparse_rep.routing.analysis.load import balance_loss, dead_experts, load_entropy, max_over_mean
from sparse_rep.routing.analysis.paths import expected_paths, pathway_components


def test_loads_by_hand():
    n = np.array([4.0, 4, 0, 0])
    assert load_entropy(n) == pytest.approx(0.5), "log 2 of log 4"
    assert max_over_mean(n) == 2
    assert dead_experts(n) == 2
    assert load_entropy(np.array([8.0, 0, 0, 0])) == 0


def test_the_balance_loss_is_experts_when_one_gets_everything():
    assert balance_loss(np.array([5.0, 0, 0, 0]), np.array([1.0, 0, 0, 0])) == 4
    assert balance_loss(np.array([5.0, 0, 0, 0]), np.full(4, 0.25)) == 1


def test_conditional_coactivation_by_hand():
    # tokens {0,1}, {0,1}, {0,2}
    pairs = np.array([[0.0, 2, 1], [2, 0, 0], [1, 0, 0]])
    assert conditional(pairs, np.array([3.0, 2, 1])).tolist() == [[0, 2 / 3, 1 / 3], [1, 0, 0], [1, 0, 0]]


def test_expected_pairs_keep_the_row_sums_and_are_those_of_two_draws_without_replacement():
    weight = np.array([4.0, 3, 2, 1])
    pair = np.outer(weight, weight)
    np.fill_diagonal(pair, 0)
    pair *= 100 / pair.sum()
    np.testing.assert_allclose(expected_pairs(pair.sum(1)), pair, rtol=1e-6)


@given(st.integers(3, 12), st.integers(0, 2**16))
@settings(max_examples=40, deadline=None)
def test_expected_pairs_have_the_sums_asked_for(n_experts, seed):
    rng = np.random.default_rng(seed)
    chosen = rng.dirichlet(np.ones(n_experts), 400).argsort(1)[:, :2]
    pairs = np.zeros((n_experts, n_experts))
    np.add.at(pairs, (chosen[:, 0], chosen[:, 1]), 1)
    pairs += pairs.T
    np.testing.assert_allclose(expected_pairs(pairs.sum(1)).sum(1), pairs.sum(1), rtol=1e-4, atol=1e-3)


def test_an_expert_that_was_never_chosen_has_no_pairs():
    expected = expected_pairs(np.array([10.0, 10, 10, 0]))
    assert expected[3].sum() == 0
    assert expected[0, 1] == pytest.approx(5)


def test_plug_in_information_is_half_the_g_statistic_of_scipy_once_the_correction_is_put_back():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 5, 300), rng.integers(0, 4, 300)
    joint = table(a[:, None], b, 5, 4)
    bias = (20 - 5 - 4 + 1) / (2 * 300)
    g = stats.chi2_contingency(joint, correction=False, lambda_="log-likelihood").statistic
    assert mutual_information(joint) * np.log(2) + bias == pytest.approx(g / 600)


def test_the_correction_takes_away_what_independent_counts_seem_to_know():
    rng = np.random.default_rng(1)
    draws = [
        mutual_information(table(rng.integers(0, 16, (500, 1)), rng.integers(0, 6, 500), 16, 6)) for _ in range(200)
    ]
    assert abs(np.mean(draws)) < 0.01
    assert 75 / 1000 / np.log(2) > 0.1, "what the plug-in figure would show"


def test_a_turn_keeps_each_document_and_its_order():
    doc = np.array([0, 0, 0, 0, 3, 3, 3, 9])
    for order in rotations(doc, 20, np.random.default_rng(0)):
        assert (doc[order] == doc).all()
        assert sorted(order) == list(range(8))
        steps = np.diff(order[:4]) % 4
        assert (steps == 1).all()


def test_rare_ids_are_left_out():
    numbers, n = common(np.array([7, 7, 3, -1, -1, 3, 5]), least=2)
    assert (numbers.tolist(), n) == ([1, 1, 0, -1, -1, 0, -1], 2)


def test_student_is_scipys():
    for degrees in (4, 9, 19):
        assert student(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), rel=3e-3)


def test_the_jackknife_of_a_mean_is_its_usual_interval():
    x = np.random.default_rng(3).normal(size=(20, 1))
    estimate = jackknife(lambda s, n: s[0] / n[0], np.abs(x), np.ones((20, 1)))
    half = stats.t.ppf(0.975, 19) * np.abs(x).std(ddof=1) / np.sqrt(20)
    assert float(estimate.hi - estimate.value) == pytest.approx(half, rel=1e-3)


def test_intervals_cover_the_truth_where_documents_differ():
    """200 texts of 60 documents with rates of their own: taking tokens for independent would cover it half of the time."""
    rng = np.random.default_rng(4)
    covered = 0
    for _ in range(200):
        rate = rng.beta(2, 6, 60)
        n = rng.binomial(50, rate)
        parts = np.zeros((20, 2))
        np.add.at(parts, np.arange(60) % 20, np.stack([n, np.full(60, 50)], axis=1))
        estimate = jackknife(lambda c: c[0] / c[1], parts)
        covered += estimate.lo <= 0.25 <= estimate.hi
    assert 0.90 < covered / 200 < 0.99


def test_with_few_documents_there_is_no_interval():
    estimate = jackknife(lambda c: c[0] / c[1], np.array([[1.0, 2]] * 4 + [[0.0, 0]] * 16))
    assert estimate.value == 0.5
    assert np.isnan(estimate.lo)


def test_loads_of_a_random_router_have_the_spread_of_real_draws():
    rng = np.random.default_rng(5)
    drawn = np.stack([
        np.bincount(rng.random((500, 6)).argsort(1)[:, :2].ravel(), minlength=6) for _ in range(300)
    ])  # fmt: skip
    assert uniform_loads(500, 6, 2, 4000, rng).std() == pytest.approx(drawn.std(), rel=0.05)


def test_importance_of_a_random_router_has_the_spread_of_real_draws():
    rng = np.random.default_rng(8)
    weight = np.stack([rng.dirichlet([3, 1]) for _ in range(500)])
    drawn = np.zeros((300, 6))
    for row in drawn:
        np.add.at(row, rng.random((500, 6)).argsort(1)[:, :2], weight)
    even = uniform_weights(500.0, float((weight**2).sum()), 500.0, 6, 4000, rng)
    assert even.mean() == pytest.approx(500 / 6, rel=0.01)
    assert even.std() == pytest.approx(drawn.std(), rel=0.05)


def test_expected_paths_by_hand():
    steps = [np.array([[3.0, 1], [0, 4]])]
    alone, chained = expected_paths(["0-0", "1-0"], steps)
    assert alone.tolist() == [0.5 * 3 / 8, 0.5 * 3 / 8]
    assert chained.tolist() == [0.5 * 0.75, 0.0]


def test_expected_paths_add_up_to_all_tokens():
    rng = np.random.default_rng(6)
    first = rng.integers(0, 3, (4, 200))
    steps = [table(a[:, None], b, 3, 3) for a, b in itertools.pairwise(first)]
    every = ["-".join(map(str, path)) for path in itertools.product(range(3), repeat=4)]
    alone, chained = expected_paths(every, steps)
    assert alone.sum() == pytest.approx(1)
    assert chained.sum() == pytest.approx(1)


def test_pathway_components_are_paths_between_the_first_and_the_last_expert():
    first = np.random.default_rng(7).integers(0, 4, (300, 6))
    paths = pathway_components(first, 4, n_components=3)
    assert paths.shape == (3, 6)
    assert paths.min(1).tolist() == [0, 0, 0]
    assert paths.max(1) == pytest.approx([3, 3, 3])
