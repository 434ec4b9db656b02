"""Written-out steps with the fused optimiser equal the specification: each coder's own loss, autograd and torch's Adam."""

import copy
from typing import Any

import pytest
import torch

from sparse_rep.activations import ActivationBatch
from sparse_rep.config_dictionary import settings_of
from sparse_rep.kernels import adam
from sparse_rep.kernels.step_scalars import StepScalars
from sparse_rep.saes.registry import build_coder
from sparse_rep.saes.training.bank import Member, Schedule
from sparse_rep.saes.training.pursuit_bank import PursuitBank
from sparse_rep.saes.training.topk_bank import TopKBank

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
N, D, M, STEPS = (512, 64, 512, 3) if CUDA else (16, 16, 32, 2)
SCHEDULE = Schedule(10, 0.3, 0.2)


def prepared(kind: str, seed: int, x: torch.Tensor, **settings: Any) -> Any:
    """A coder of which some latents are long dead."""
    coder = build_coder(settings_of(kind)(n_latents=M, dead_after_tokens=100, **settings), D)
    coder.to(DEVICE).initialise(x, torch.Generator().manual_seed(seed))
    coder.firing.tokens_since_fired[M // 2 :] = 1000
    if kind != "mp":
        with torch.no_grad():
            coder.b_enc[M // 2 :] = -2.0
    return coder.train()


def specified(coder: Any, optimiser: torch.optim.Adam, rate: float, x: torch.Tensor) -> dict[str, float]:
    for group in optimiser.param_groups:
        group["lr"] = rate
    optimiser.zero_grad()
    losses = coder.loss(ActivationBatch(x))
    losses["loss"].backward()
    coder.before_step()
    torch.nn.utils.clip_grad_norm_(coder.parameters(), 1.0)
    optimiser.step()
    coder.after_step()
    return {name: float(value.detach()) for name, value in losses.items()}


@pytest.mark.parametrize(
    ("kind", "bank", "own"),
    [
        ("topk", TopKBank, [{"k": 4}, {"k": 3}]),  # several widths of code in one stack
        ("batchtopk", TopKBank, [{"k": 3}, {"k": 3}]),
        ("mp", PursuitBank, [{"k": 3}]),
    ],
)
def test_a_fused_step_equals_the_specification(kind: str, bank: Any, own: list[dict[str, Any]]) -> None:
    batches = [torch.randn(N, D, generator=torch.Generator().manual_seed(i)).to(DEVICE) + 1 for i in range(STEPS)]
    coders = [prepared(kind, seed, batches[0], **settings) for seed, settings in enumerate(own)]
    twins = copy.deepcopy(coders)
    rates = [1e-2 * (i + 1) for i in range(len(own))]
    members = {str(i): Member(c, lr) for i, (c, lr) in enumerate(zip(coders, rates, strict=True))}
    made = bank(members, SCHEDULE, torch.float32, use_graph=False)
    optimisers = [torch.optim.Adam(t.parameters(), lr=1e-2, eps=1e-8) for t in twins]
    made.losses()  # so that the dead are looked at from the first step
    for step, x in enumerate(batches):
        made.advance(ActivationBatch(x), step)
        found = made.losses()
        for i, twin in enumerate(twins):
            expected = specified(twin, optimisers[i], rates[i] * SCHEDULE.factor(step), x)
            revived = {"aux", "revived"} & set(expected)
            for name in set(found[str(i)]) & set(expected):
                assert float(found[str(i)][name]) == pytest.approx(expected[name], rel=2e-5, abs=1e-6), (step, name)
            assert revived <= set(found[str(i)]) or not bool(twin.dead.any())
            # Adam makes a whole step of a gradient that is all rounding: a hundredth of a step may differ.
            torch.testing.assert_close(coders[i].state_dict(), twin.state_dict(), rtol=1e-4, atol=1e-4)


def test_a_bank_goes_on_from_its_saved_state() -> None:
    batches = [torch.randn(N, D, generator=torch.Generator().manual_seed(i)).to(DEVICE) for i in range(3)]

    def fresh() -> tuple[Any, TopKBank]:
        coder = prepared("topk", 0, batches[0], k=4)
        return coder, TopKBank({"a": Member(coder, 1e-2)}, SCHEDULE, torch.float32, use_graph=False)

    whole, bank = fresh()
    for step in range(2):
        bank.advance(ActivationBatch(batches[step]), step)
    saved = copy.deepcopy(bank.state_dict())
    bank.advance(ActivationBatch(batches[2]), 2)
    resumed, other = fresh()
    other.load_state_dict(saved)
    other.advance(ActivationBatch(batches[2]), 2)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


@pytest.mark.parametrize("unit", [True, False])
def test_the_fused_optimiser_equals_its_specification(unit: bool) -> None:
    rng = torch.Generator().manual_seed(0)
    shape = (2, 5, 24)
    p = torch.nn.functional.normalize(torch.randn(shape, generator=rng), dim=-1)
    g, m, v = torch.randn(shape, generator=rng), torch.randn(shape, generator=rng), torch.rand(shape, generator=rng)
    scalars = StepScalars(torch.tensor([1e-2, 3e-2]), torch.tensor([0.5, -2.0]), adam.bias_corrections(4, "cpu")[2])
    results = []
    for backend in ("torch", "triton"):
        at = [t.clone().to(DEVICE) for t in (p, g, m, v)]
        on_device = StepScalars(*(t.to(DEVICE) for t in (scalars.lr, scalars.grad_scale, scalars.corrections)))
        shadow = torch.full(shape, float("nan"), dtype=torch.float16, device=DEVICE)
        adam.adam_rows(at[0], at[1], at[2], at[3], on_device, shadow, unit, backend)  # pyright: ignore[reportArgumentType]
        results.append([*at, shadow])
        if unit:
            torch.testing.assert_close(at[0].norm(dim=-1), torch.ones(2, 5, device=DEVICE))
    for one, two in zip(*results, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6 if one.dtype == torch.float32 else 1e-3)


@pytest.mark.skipif(not CUDA, reason="a CUDA graph")
@pytest.mark.parametrize(("kind", "bank"), [("topk", TopKBank), ("batchtopk", TopKBank), ("mp", PursuitBank)])
def test_recorded_steps_are_the_steps_themselves(kind: str, bank: Any) -> None:
    batches = [torch.randn(N, D, generator=torch.Generator().manual_seed(i)).to(DEVICE) + 1 for i in range(9)]
    ended = []
    for use_graph in (False, True):
        coder = prepared(kind, 0, batches[0], k=4)
        made = bank({"a": Member(coder, 1e-2)}, SCHEDULE, torch.bfloat16, use_graph=use_graph)
        for step, x in enumerate(batches):
            made.advance(ActivationBatch(x), step)
            if step == 4:
                made.losses()  # the dead are looked at from here: another recording
        ended.append((coder.state_dict(), {name: float(v) for name, v in made.losses()["a"].items()}))
    assert ended[1][1] == pytest.approx(ended[0][1], rel=1e-3)
    torch.testing.assert_close(ended[1][0], ended[0][0], rtol=1e-3, atol=1e-3)
