"""The small layer behind a gate, and the comparison of gates on equal terms."""

import json

import pytest
import torch
from typer.testing import CliRunner

from sparse_rep.cli.main import build
from sparse_rep.routing.comparison.contenders import CONTENDERS, draw_trials
from sparse_rep.routing.comparison.ensemble import Ensemble, train_together
from sparse_rep.routing.comparison.summary import interval, normalised_information
from sparse_rep.routing.comparison.tasks import TASKS, Part, Task
from sparse_rep.routing.gates.topk import TopKGate
from sparse_rep.routing.small_moe import MoeLayer


@pytest.mark.parametrize("name", CONTENDERS)
@pytest.mark.parametrize("at_most", [None, 2])
def test_computing_only_what_is_used_gives_the_same_output(name: str, at_most: int | None) -> None:
    task = tiny()
    layer = draw_trials(CONTENDERS[name], task, 1, seed=0)[0].layer.eval()
    layer.at_most = at_most
    x, ids = task.test.x, task.test.ids
    y, weights, _ = layer(x, ids)
    torch.testing.assert_close(layer.conditional(x, ids), y)
    if at_most is not None:
        assert (weights > 0).sum(1).max() <= at_most
        torch.testing.assert_close(weights.sum(1), torch.ones(len(x)))


def test_a_layer_is_the_weighted_sum_of_its_experts() -> None:
    layer = MoeLayer(TopKGate(3, 4, 2).eval(), 3, 2, d_hidden=5).eval()
    x = torch.randn(6, 3)
    y, weights, _ = layer(x)
    for row in range(6):
        expected = torch.zeros(2)
        for e in range(4):
            hidden = (x[row] @ layer.weights[0][e] + layer.biases[0][e, 0]).relu()
            expected += weights[row, e] * (hidden @ layer.weights[1][e] + layer.biases[1][e, 0])
        torch.testing.assert_close(y[row], expected)


def test_an_ensemble_is_its_layers_each_with_its_own_settings() -> None:
    task = tiny()
    trials = draw_trials(CONTENDERS["comet"], task, 3, seed=0)
    together = Ensemble(trials)
    together.skeleton.eval()
    outputs, _, penalties = together.forward(task.test.x, task.test.ids)
    for trial, y, penalty in zip(trials, outputs, penalties, strict=True):
        alone, _, its_penalty = trial.layer.eval()(task.test.x)
        torch.testing.assert_close(y, alone)
        torch.testing.assert_close(penalty, its_penalty)
    assert len({float(t.layer.gate.width) for t in trials}) == 3


def test_a_step_of_an_ensemble_is_adam_in_each_of_its_layers() -> None:
    task = tiny()
    trials = draw_trials(CONTENDERS["comet"], task, 3, seed=0)
    together = Ensemble(trials)
    for _ in range(4):
        predicted, _, penalty = together.forward(task.train.x, task.train.ids)
        losses = torch.stack([task.loss(p, task.train.y) for p in predicted]) + penalty
        together.step(losses, lr_share=0.5)
    for i, trial in enumerate(trials):
        optimiser = torch.optim.Adam(trial.layer.parameters(), lr=0.5 * trial.lr)
        for _ in range(4):
            predicted, _, penalty = trial.layer(task.train.x)
            optimiser.zero_grad()
            (task.loss(predicted, task.train.y) + penalty).backward()
            optimiser.step()
        for name, parameter in trial.layer.named_parameters():
            torch.testing.assert_close(together.params[name][i], parameter.detach(), atol=2e-4, rtol=1e-3)


def test_every_gate_is_given_the_same_learning_rates_and_trials() -> None:
    task = tiny()
    drawn = [draw_trials(build, task, 5, seed=7) for build in CONTENDERS.values()]
    assert len({tuple(t.lr for t in trials) for trials in drawn}) == 1


def test_a_gate_that_learns_beats_hash_on_planted_regimes() -> None:
    task = TASKS["regimes-by-tree"](0)
    score = {
        name: train_together(draw_trials(CONTENDERS[name], task, 4, 0), task, 8, 128, 0).test.median()
        for name in ("hash", "comet", "comet+")
    }
    assert score["comet"] > score["hash"] + 0.1
    assert score["comet+"] > score["hash"] + 0.1


def test_leaf_orders_are_permutations_when_training_ends() -> None:
    task = tiny()
    trials = draw_trials(CONTENDERS["comet+"], task, 2, 0)
    together = Ensemble(trials)
    together.settle()
    theta = together.params["gate.order.theta"]
    assert theta.shape == (2, 2, 8, 8)
    assert torch.equal(theta.sum(-1), torch.ones(2, 2, 8))
    assert torch.equal(theta.sum(-2), torch.ones(2, 2, 8))
    before = theta.clone()
    predicted, _, penalty = together.forward(task.train.x, task.train.ids)
    together.step(predicted.square().mean((1, 2)) + penalty, 1.0)
    assert torch.equal(together.params["gate.order.theta"], before)


def test_the_planted_regimes_are_what_makes_the_targets() -> None:
    for name in ("regimes-by-distance", "regimes-by-tree"):
        task = TASKS[name](3)
        assert task.train.regime is not None
        assert len(task.train.regime.unique()) == 8
        least = []
        for regime in range(8):
            rows = task.train.regime == regime
            x = torch.cat([task.train.x[rows], torch.ones(int(rows.sum()), 1)], dim=1)
            fit = torch.linalg.lstsq(x, task.train.y[rows], driver="gelsd").solution
            least.append((x @ fit - task.train.y[rows]).square().mean().item())
        assert max(least) < 0.02  # the noise has variance 0.01


def test_splits_of_a_task_share_no_row() -> None:
    task = TASKS["digits"](0)
    ids = torch.cat([task.train.ids, task.validation.ids, task.test.ids])
    assert len(ids) == len(ids.unique()) == 1797


def test_information_is_1_up_to_names_and_0_for_what_says_nothing() -> None:
    a = torch.arange(4000) % 8
    assert normalised_information(a, (a + 3) % 8) == pytest.approx(1)
    assert normalised_information(a, torch.zeros_like(a)) == pytest.approx(0, abs=1e-12)
    assert normalised_information(a, torch.arange(4000) // 8 % 8) < 0.02


def test_the_interval_of_a_median_holds_it() -> None:
    values = torch.linspace(0, 1, 25).numpy()
    low, high = interval(values)
    assert 0.25 < low < 0.5 < high < 0.75


def test_bench_gates_prints_a_row_a_gate_and_the_contrast() -> None:
    command = [
        "bench",
        "gates",
        "--tasks",
        "digits",
        "--gates",
        "topk,comet",
        "--trials",
        "2",
        "--epochs",
        "1",
        "--json",
    ]
    done = CliRunner().invoke(build(), command)
    assert done.exit_code == 0, done.output
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row.get("gate") for row in rows] == ["topk", "comet", None]
    assert all(0 < row["median"] <= 1 and row["trials"] == 2 for row in rows[:2])
    assert rows[2]["difference_of_medians"] == pytest.approx(rows[1]["median"] - rows[0]["median"])


def test_an_unknown_gate_is_named_with_those_there_are() -> None:
    done = CliRunner().invoke(build(), ["bench", "gates", "--gates", "comets"])
    assert "comet+" in str(done.exception)


def tiny() -> Task:
    random = torch.Generator().manual_seed(0)
    x, y = torch.randn(60, 5, generator=random), torch.randn(60, 3, generator=random)
    part = Part(x, y, torch.arange(60), None)
    return Task("tiny", part, part, part, d_out=3, classes=False)
