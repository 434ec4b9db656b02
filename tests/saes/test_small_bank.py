"""Small coders of one config step as one, and end as each would alone."""

import copy
from typing import Any

import pytest
import torch

from sparse_rep.activations import ActivationBatch, TensorSource
from sparse_rep.config import TrainConfig
from sparse_rep.config_dictionary import ARCHITECTURES
from sparse_rep.saes.registry import build_coder
from sparse_rep.saes.training.autograd_bank import AutogradBank
from sparse_rep.saes.training.bank import Member, Schedule
from sparse_rep.saes.training.grouping import assemble
from sparse_rep.saes.training.small_bank import SmallBank
from sparse_rep.saes.training.trainer import train

SCHEDULE = Schedule(10, 0.2, 0.2)


def coders(kind: str, count: int = 3) -> list[Any]:
    """Of one config, most of whose latents are long dead."""
    settings = {"n_latents": 40, "dead_after_tokens": 100}
    if "k" in ARCHITECTURES[kind].model_fields:
        settings["k"] = 4
    made = [build_coder(ARCHITECTURES[kind].checked(settings), 20) for _ in range(count)]
    sample = torch.randn(256, 20, generator=torch.Generator().manual_seed(0))
    for seed, coder in enumerate(made):
        coder.initialise(sample, torch.Generator().manual_seed(seed))
        coder.firing.tokens_since_fired[10:] = 1000
    return made


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_every_architecture_learns_in_a_stack_what_it_learns_alone(kind: str) -> None:
    together = coders(kind)
    alone = copy.deepcopy(together)
    rates = (1e-2, 2e-2, 3e-3)
    device = torch.device("cpu")
    members = {str(i): Member(coder, lr) for i, (coder, lr) in enumerate(zip(together, rates, strict=True))}
    (bank,) = assemble(members, SCHEDULE, device, torch.float32)
    assert isinstance(bank, SmallBank)
    single = [
        AutogradBank({str(i): Member(coder, lr)}, SCHEDULE)
        for i, (coder, lr) in enumerate(zip(alone, rates, strict=True))
    ]
    for step in range(5):
        batch = ActivationBatch(torch.randn(256, 20, generator=torch.Generator().manual_seed(step)))
        for each in (bank, *single):
            each.advance(batch, step)
    for i, one in enumerate(single):
        expected, found = one.losses()[str(i)], bank.losses()[str(i)]
        for name in found:
            assert float(found[name]) == pytest.approx(float(expected[name]), rel=1e-4, abs=1e-6), name
        torch.testing.assert_close(together[i].state_dict(), alone[i].state_dict(), rtol=1e-4, atol=1e-5)


def test_a_stack_stopped_and_resumed_ends_bit_identical(tmp_path: Any) -> None:
    x = torch.randn(2000, 20, generator=torch.Generator().manual_seed(0))
    settings = TrainConfig(n_tokens=64 * 30, batch_tokens=64, buffer_tokens=256, checkpoint_seconds=0)

    def run(**more: Any) -> dict[str, Any]:
        made = {f"{kind}{i}": coder for kind in ("mp", "gated") for i, coder in enumerate(coders(kind, 2))}
        train(made, TensorSource(x, 128), settings, seeds={name: int(name[-1]) for name in made}, **more)
        return made

    def stop(step: int, _tokens: int) -> None:
        if step == 17:
            raise KeyboardInterrupt

    whole = run()
    checkpoint = tmp_path / "checkpoint.pt"
    with pytest.raises(KeyboardInterrupt):
        run(checkpoint=checkpoint, on_step=stop)
    resumed = run(checkpoint=checkpoint)
    for name, coder in whole.items():
        for key, tensor in coder.state_dict().items():
            assert torch.equal(tensor, resumed[name].state_dict()[key]), (name, key)
    assert not torch.equal(whole["mp0"].W_dec, whole["mp1"].W_dec)
