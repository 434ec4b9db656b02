"""Every architecture learns a planted dictionary that the same training on noise does not show."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

Learned = Callable[..., dict[str, float]]
STEERED = {"target_l0": 3, "penalty_rate": 0.02}

# Settings for which codes come to a few a token, as planted; what share of the 48 atoms must then be found; and the L0 of
# held-out tokens: for the batch architectures, whose threshold stands in for k, that of training.
CASES: dict[str, tuple[dict[str, Any], float, tuple[float, float]]] = {
    "topk": ({"k": 3}, 0.7, (2.99, 3)),
    "batchtopk": ({"k": 3}, 0.7, (2.7, 3.3)),
    "matryoshka": ({"k": 3, "prefix_shares": (0.5, 1)}, 0.5, (2.7, 3.3)),
    "mp": ({"k": 3}, 0.95, (2.9, 3)),
    "standard": ({"penalty": 1}, 0.4, (3, 7.5)),
    "jumprelu": ({"penalty": 0.3, "bandwidth": 0.5, "initial_threshold": 0.5, **STEERED}, 0.5, (1.5, 4)),
    "jumprelu-tanh": ({"variant": "tanh", "penalty": 0.3, "bandwidth": 0.5, **STEERED}, 0.3, (1.5, 4)),
    "gated": ({"penalty": 1, **STEERED}, 0.4, (1.5, 4)),
}


@pytest.mark.parametrize("case", CASES)
def test_planted_atoms_are_recovered_and_noise_shows_none(case: str, learned: Learned) -> None:
    settings, share, (fewest, most) = CASES[case]
    kind = case.partition("-")[0]
    found = learned(kind, n_tokens=150_000, **settings)
    noise = torch.randn(12_000, 32, generator=torch.Generator().manual_seed(0))
    null = learned(kind, noise, n_tokens=50_000, **settings)
    assert found["recovered"] > share
    assert null["recovered"] == 0
    assert found["explained_variance"] > 0.4
    assert fewest <= found["l0"] <= most


@pytest.mark.parametrize(
    ("kind", "penalties"), [("standard", (0.3, 1, 2)), ("jumprelu", (0.03, 0.3, 1.5)), ("gated", (0.3, 1, 2.5))]
)
def test_l0_falls_as_the_penalty_rises(kind: str, penalties: tuple[float, ...], learned: Learned) -> None:
    settings = {"bandwidth": 0.5, "initial_threshold": 0.1} if kind == "jumprelu" else {}
    counts = [learned(kind, n_tokens=100_000, penalty=p, **settings)["l0"] for p in penalties]
    assert counts[0] > 1.2 * counts[1] > 1.2 * 1.2 * counts[2] > 0


@pytest.mark.parametrize("target", [2.0, 6.0])
def test_a_steered_penalty_reaches_the_l0_asked_for(target: float, learned: Learned) -> None:
    found = learned("standard", n_tokens=150_000, penalty=1, target_l0=target, penalty_rate=0.03)
    assert found["l0"] == pytest.approx(target, rel=0.2)
