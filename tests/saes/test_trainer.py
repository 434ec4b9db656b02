"""The loop: schedules, checkpoints that hold everything, streams shared by several coders."""

from pathlib import Path

import pytest
import torch

from sparse_rep.activations import TensorSource
from sparse_rep.config import TopKConfig, TrainConfig
from sparse_rep.errors import DataError
from sparse_rep.saes.bank import Schedule
from sparse_rep.saes.topk import TopK
from sparse_rep.saes.trainer import train


class StopHereError(Exception):
    pass


def source() -> TensorSource:
    return TensorSource(torch.randn(3000, 16, generator=torch.Generator().manual_seed(0)), chunk_rows=256)


def coder(k: int = 4) -> TopK:
    return TopK(TopKConfig(n_latents=40, k=k, dead_after_tokens=2000), 16)


def settings(**changes: object) -> TrainConfig:
    base = {"n_tokens": 6_400, "batch_tokens": 128, "buffer_tokens": 1000, "checkpoint_seconds": 0, "log_every": 10}
    return TrainConfig.checked({**base, **changes})


def test_learning_rate_rises_stays_and_falls_to_zero() -> None:
    schedule = Schedule(100, 0.1, 0.2)
    rates = [schedule.factor(step) for step in range(100)]
    assert schedule.table().tolist() == pytest.approx(rates)
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[50] == rates[79] == 1.0
    assert rates[90] == pytest.approx(0.5)
    assert rates[99] == pytest.approx(0.05)


@pytest.mark.parametrize("stop_at", [1, 20, 49])
def test_a_killed_and_resumed_run_ends_with_the_same_weights(tmp_path: Path, stop_at: int) -> None:
    whole = coder()
    train({"a": whole}, source(), settings())

    def stop(step: int, tokens: int) -> None:
        if step == stop_at + 1:  # after the checkpoint of stop_at, before the next
            raise StopHereError

    checkpoint = tmp_path / "checkpoint.pt"
    with pytest.raises(StopHereError):
        train({"a": coder()}, source(), settings(), checkpoint=checkpoint, on_step=stop)
    resumed = coder()
    steps: list[int] = []
    train({"a": resumed}, source(), settings(), checkpoint=checkpoint, on_step=lambda s, t: steps.append(s))
    assert steps[0] == stop_at
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_a_coder_learns_the_same_alone_and_in_company() -> None:
    alone, together, other = coder(4), coder(4), coder(2)
    train({"a": alone}, source(), settings(n_tokens=2560))
    train({"b": other, "a": together}, source(), settings(n_tokens=2560))
    assert torch.equal(alone.W_enc, together.W_enc)


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint.pt"
    one, two = {"lr": 0.1, "model": {"name": "a", "dtype": "x"}}, {"lr": 0.1, "model": {"name": "b", "dtype": "x"}}
    train({"a": coder()}, source(), settings(n_tokens=256), checkpoint=checkpoint, identity=one)
    with pytest.raises(DataError, match="another run: model.name was 'a' and is 'b'; restore"):
        train({"a": coder()}, source(), settings(n_tokens=256), checkpoint=checkpoint, identity=two)


def test_metrics_come_at_every_interval_and_at_the_end() -> None:
    seen: list[int] = []
    train(
        {"a": coder()}, source(), settings(n_tokens=128 * 25), on_metrics=lambda name, step, values: seen.append(step)
    )
    assert seen == [10, 20, 25]


def test_a_loss_that_is_not_finite_stops_the_run() -> None:
    x = torch.randn(500, 16)
    x[123, 3] = float("nan")
    with pytest.raises((FloatingPointError, ValueError), match="finite"):
        train({"a": coder()}, TensorSource(x), settings(n_tokens=1280))
