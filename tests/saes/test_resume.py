"""Killed and resumed, every architecture ends bit for bit where the uninterrupted run does (on a CPU)."""

from pathlib import Path
from typing import Any

import pytest
import torch

from sparse_rep.activations import TensorSource
from sparse_rep.config import TrainConfig
from sparse_rep.config_dictionary import ARCHITECTURES
from sparse_rep.saes.registry import build_coder
from sparse_rep.saes.training.trainer import train


class Killed(Exception):
    pass


def coder(kind: str) -> Any:
    wanted = {"k": 4, "target_l0": 5, "penalty_warmup_tokens": 1000, "prefix_shares": (0.5, 1)}
    known = ARCHITECTURES[kind].model_fields
    settings = {"n_latents": 40, "dead_after_tokens": 500, **{k: v for k, v in wanted.items() if k in known}}
    return build_coder(ARCHITECTURES[kind].checked(settings), 16)


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_a_killed_and_resumed_run_ends_with_the_same_state(kind: str, tmp_path: Path) -> None:
    x = torch.randn(1500, 16, generator=torch.Generator().manual_seed(0)) * 3
    source = TensorSource(x, chunk_rows=256)
    settings = TrainConfig.checked(
        {"n_tokens": 2560, "batch_tokens": 128, "buffer_tokens": 500, "checkpoint_seconds": 0, "lr": 3e-3}
    )

    def die(step: int, tokens: int) -> None:
        if step == 13:
            raise Killed

    whole, resumed = coder(kind), coder(kind)
    train({"a": whole}, source, settings)
    with pytest.raises(Killed):
        train({"a": coder(kind)}, source, settings, checkpoint=tmp_path / "c.pt", on_step=die)
    train({"a": resumed}, source, settings, checkpoint=tmp_path / "c.pt")
    ours, theirs = whole.state_dict(), resumed.state_dict()
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    assert whole.firing.tokens_seen == resumed.firing.tokens_seen == 2560
