"""On a CUDA device: no step of any architecture waits for it, and training goes as on the CPU."""

from typing import Any

import pytest
import torch

from sparse_rep.activations import ActivationBatch
from sparse_rep.config_dictionary import ARCHITECTURES
from sparse_rep.saes.registry import build_coder

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


def coder(kind: str, device: str, **settings: Any) -> Any:
    small = {"n_latents": 512, "dead_after_tokens": 1000, **settings}
    built = build_coder(ARCHITECTURES[kind].checked(small), 64)
    sample = torch.randn(4096, 64, generator=torch.Generator().manual_seed(0))
    built.initialise(sample, torch.Generator().manual_seed(0))
    return built.to(device)


def step(built: Any, x: torch.Tensor) -> dict[str, torch.Tensor]:
    built.zero_grad()
    losses = built.loss(ActivationBatch(x))
    losses["loss"].backward()
    built.before_step()
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.sub_(0.1 * parameter.grad)
    built.after_step()
    return losses


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_no_step_waits_for_the_device(kind: str) -> None:
    built, x = coder(kind, "cuda"), torch.randn(1024, 64, device="cuda")
    for _ in range(3):  # compile, and let latents die
        step(built, x)
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(built, x)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_three_steps_go_as_on_the_cpu(kind: str) -> None:
    there, here = coder(kind, "cuda"), coder(kind, "cpu")
    x = torch.randn(1024, 64, generator=torch.Generator().manual_seed(1))
    for _ in range(3):
        on_gpu, on_cpu = step(there, x.cuda()), step(here, x)
    for name in ("loss", "fvu", "l0"):
        assert on_gpu[name].item() == pytest.approx(on_cpu[name].item(), rel=2e-3), name
