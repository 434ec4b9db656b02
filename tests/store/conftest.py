"""A small sealed store beside the dense matrix it was made from, shared by the tests that only read."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))  # for storekit, in child processes too

import storekit


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> storekit.Small:
    """Sealed; read it, never write it."""
    small = storekit.Small.random(seed=7)
    small.write(tmp_path_factory.mktemp("small") / "store", sealed=True)
    return small
