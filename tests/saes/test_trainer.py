"""The loop: schedules, checkpoints that hold everything, streams shared by several coders."""

from pathlib import Path

import pytest
import torch

from sparse_rep.activations import ActivationBatch, TensorSource
from sparse_rep.config import TopKConfig, TrainConfig
from sparse_rep.errors import ConfigError, DataError
from sparse_rep.saes.coder import SparseCoder
from sparse_rep.saes.topk import TopK
from sparse_rep.saes.training.autograd_bank import AutogradBank
from sparse_rep.saes.training.bank import Member, Schedule
from sparse_rep.saes.training.memory import require_room
from sparse_rep.saes.training.trainer import train


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
    with pytest.raises(DataError, match=r"another run: model\.name was 'a' and is 'b'; restore"):
        train({"a": coder()}, source(), settings(n_tokens=256), checkpoint=checkpoint, identity=two)


def test_metrics_come_at_every_interval_and_at_the_end() -> None:
    seen: list[int] = []
    train(
        {"a": coder()}, source(), settings(n_tokens=128 * 25), on_metrics=lambda name, step, values: seen.append(step)
    )
    assert seen == [10, 20, 25]


def test_activations_that_are_not_finite_are_named_and_the_last_good_checkpoint_stays(tmp_path: Path) -> None:
    x = torch.randn(4096, 16, generator=torch.Generator().manual_seed(0))
    checkpoint = tmp_path / "checkpoint.pt"
    x[3210, 3], x[3213, 5] = float("nan"), float("inf")
    with pytest.raises(DataError, match=r"2 of the 256 tokens of shard 12 \(pass 1\), the first at position 3210"):
        train({"a": coder()}, TensorSource(x, chunk_rows=256), settings(), checkpoint=checkpoint)
    mended = coder()
    x[3210, 3] = x[3213, 5] = 0
    seen: list[int] = []
    train(
        {"a": mended},
        TensorSource(x, chunk_rows=256),
        settings(),
        checkpoint=checkpoint,
        on_step=lambda s, t: seen.append(s),
    )
    assert seen[0] > 0  # it went on from before the bad tokens
    assert torch.isfinite(mended.W_enc).all()


def test_a_run_that_diverges_stops_before_it_spoils_its_checkpoint(tmp_path: Path) -> None:
    class Diverging(SparseCoder):
        """Its loss is fine for five steps."""

        def __init__(self) -> None:
            super().__init__()
            self.d_in = self.d_out = self.n_latents = 16
            self.weight = torch.nn.Parameter(torch.ones(16))
            self.steps = 0

        encode = reconstruct = describe = lambda self, *args: {}  # pyright: ignore

        def loss(self, batch: ActivationBatch) -> dict[str, torch.Tensor]:
            self.steps += 1
            return {"loss": self.weight.sum() / (0.0 if self.steps > 5 else 1.0)}

    checkpoint = tmp_path / "checkpoint.pt"
    with pytest.raises(DataError, match="a: a loss stopped being finite at or before step 6"):
        train({"a": Diverging()}, source(), settings(log_every=100), checkpoint=checkpoint)
    kept = torch.load(checkpoint, weights_only=True)["state"]
    assert kept["step"] == 5
    assert torch.isfinite(kept["banks"][0]["coder"]["weight"]).all()


def test_members_for_which_there_is_no_room_are_named() -> None:
    members = {name: Member(TopK(TopKConfig(n_latents=4000, k=4), 100), 1e-3) for name in ("a", "b", "c")}
    one = AutogradBank.bytes_needed({"a": members["a"]}, 128)
    assert one >= 4 * 4 * 2 * 4000 * 100  # weights, gradients and two moments, of encoder and decoder
    require_room(members, torch.device("cpu"), 128, available=3 * one)
    with pytest.raises(ConfigError, match="no room for b, c; train fewer"):
        require_room(members, torch.device("cpu"), 128, available=2 * one - 1)
