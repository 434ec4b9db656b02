"""Routing analysed once for all tests that only read."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))  # for planted

import planted

from sparse_rep.store import Store


@pytest.fixture(scope="session")
def routed(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """One text; runs `domain` (d -> experts 2d, 2d + 1), `uniform` (8 experts, 2 of them at random) and `other`, another draw."""
    store = planted.fresh(tmp_path_factory.mktemp("routed") / "store")
    domain = planted.corpus(store)
    planted.write(store, "domain", planted.by_domain(domain, 2), 8)
    planted.write(store, "uniform", planted.at_random(len(domain), 8, 2, 3, seed=1), 8)
    planted.write(store, "other", planted.at_random(len(domain), 8, 2, 3, seed=2), 8)
    return store


@pytest.fixture(scope="session")
def run_of(routed: Store) -> dict[str, str]:
    return {name: run for run in routed.run_ids() for name in (run.rsplit("-", 1)[0],)}
