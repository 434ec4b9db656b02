"""bf16 products under fp32 weights: every architecture learns what it learns in fp32, on whatever device there is."""

from pathlib import Path

import pytest
import torch

from sparse_rep.activations import TensorSource
from sparse_rep.config import TrainConfig
from sparse_rep.config_dictionary import ARCHITECTURES
from sparse_rep.saes.registry import build_coder
from sparse_rep.saes.training.trainer import train

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_bf16_products_follow_fp32_and_leave_fp32_weights(kind: str, tmp_path: Path) -> None:
    x = torch.randn(2048, 32, generator=torch.Generator().manual_seed(0)) + 0.5
    settings = TrainConfig(
        n_tokens=256 * 40, batch_tokens=256, buffer_tokens=512, log_every=1, lr=2e-3, checkpoint_seconds=1e6
    )
    final = []
    for dtype in (torch.float32, torch.bfloat16):
        own = {"k": 4} if "k" in ARCHITECTURES[kind].model_fields else {}
        coder = build_coder(ARCHITECTURES[kind].checked({"n_latents": 64, "dead_after_tokens": 2000, **own}), 32)
        losses: list[float] = []
        train(
            {"a": coder},
            TensorSource(x, 256),
            settings,
            device=DEVICE,
            dtype=dtype,
            checkpoint=tmp_path / f"{dtype}.pt",
            on_metrics=lambda name, step, values, losses=losses: losses.append(values["fvu"]),
        )
        assert losses[-1] < losses[0]
        assert all(p.dtype == torch.float32 for p in coder.parameters())
        final.append(losses)
    assert final[1][0] == pytest.approx(final[0][0], rel=0.01)
    assert final[1][-1] == pytest.approx(final[0][-1], rel=0.03)
