"""Tiny models of every family that hosting is tested on."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest
import torch


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
