"""Heads whose attention is known because it was put there: the recipes of docs/attention.md."""

import importlib.util
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sparse_rep.attention.layer import LayerAttention

PLANTED = ("relative", "grid", "sink", "needle", "diffuse", "local")


def plant(kind: str, n: int = 1024, d: int = 64, seed: int = 0) -> LayerAttention:
    """One head; q and k as they are after position encoding, v at random."""
    draw = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw)

    u = torch.nn.functional.normalize(noise(d), dim=0)
    at = torch.arange(n)[:, None].float()
    if kind == "relative":
        w = torch.linspace(0.02, math.pi, d // 2)
        k = torch.cat([(at * w).cos(), (at * w).sin()], -1)
        q = 2 * k
    elif kind == "grid":
        w = 2 * math.pi * torch.arange(1, 17).repeat(2) / 32
        k = torch.cat([(at * w).cos(), (at * w).sin()], -1)
        q = 2 * k
    elif kind == "local":
        w = torch.linspace(0.02, 0.2, d // 2)
        k = 3 * torch.cat([(at * w).cos(), (at * w).sin()], -1)
        q = 3 * k
    elif kind == "sink":
        q, k = 3 * u + 0.3 * noise(n, d), 0.3 * noise(n, d)
        k[0] = 24 * u
    elif kind == "needle":
        q, k = 4 * u + 0.3 * noise(n, d), 0.3 * noise(n, d)
        k[torch.randperm(n // 8, generator=draw)[:5]] = 24 * u + noise(5, d)
    else:
        q, k = 0.3 * noise(n, d), 0.3 * noise(n, d)
    return LayerAttention(q[None], k[None], noise(1, n, d))


@pytest.fixture(scope="session")
def planted() -> Callable[..., LayerAttention]:
    return plant


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """`tiny(family)` -> directory of a saved model, one of the families that hosting is tested on; each is made once."""
    spec = importlib.util.spec_from_file_location("families", Path(__file__).parents[1] / "hosting" / "conftest.py")
    assert spec is not None
    assert spec.loader is not None
    families = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(families)
    made: dict[str, str] = {}

    def make(family: str) -> str:
        if family not in made:
            made[family] = str(families.save_tiny(tmp_path_factory.mktemp(family), family))
        return made[family]

    return make


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.randint(2, 300, (2, 24), generator=torch.Generator().manual_seed(1))
