"""The training recipe of the hierarchy toy (arXiv 2506.03093, appendix B.1): Adam, warm-up, flat, linear fall to a tenth."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, final

import torch
from torch import Tensor

from sparse_rep.evaluation.fidelity.populations import Population

LEARNING_RATE, BETAS = 3e-2, (0.5, 0.9375)
WARMUP_STEPS, DECAY_SHARE, LAST_SHARE = 100, 0.2, 0.1
LARGEST_GRADIENT = 1.0


def learning_rate(step: int, n_steps: int) -> float:
    """Of a step, counted from 0."""
    decay_from = (1 - DECAY_SHARE) * n_steps
    fall = max(0.0, (step - decay_from) / (n_steps - decay_from))
    return LEARNING_RATE * min(1.0, step / WARMUP_STEPS, 1 - (1 - LAST_SHARE) * fall)


@final
class PopulationTraining:
    """Trains a population step by step; its state is all a run that was interrupted needs to go on."""

    def __init__(self, population: Population, batch: Callable[[int], Tensor], n_steps: int) -> None:
        self.population, self.batch, self.n_steps, self.step = population, batch, n_steps, 0
        self.optimiser = torch.optim.Adam(population.parameters(), lr=LEARNING_RATE, betas=BETAS, foreach=True)

    def steps(self) -> Iterator[int]:
        """Yields after every step the number of steps done."""
        parameters = list(self.population.parameters())
        while self.step < self.n_steps:
            self.optimiser.param_groups[0]["lr"] = learning_rate(self.step, self.n_steps)
            self.optimiser.zero_grad()
            self.population.losses(self.batch(self.step), self.step).sum().backward()
            self.population.before_step()
            clip_by_seed([p.grad for p in parameters if p.grad is not None])
            self.optimiser.step()
            self.population.after_step()
            self.step += 1
            yield self.step

    def state_dict(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "population": self.population.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step = state["step"]
        self.population.load_state_dict(state["population"])
        self.optimiser.load_state_dict(state["optimiser"])


@torch.no_grad()
def clip_by_seed(gradients: list[Tensor]) -> None:
    """Scale each seed's gradient, over all its parameters (s, ...), to a norm of at most 1: seeds do not share a bound."""
    squares = torch.stack([g.square().flatten(1).sum(1) for g in gradients]).sum(0)
    factor = (LARGEST_GRADIENT / (squares.sqrt() + 1e-6)).clamp(max=1)
    for g in gradients:
        g.mul_(factor.view(-1, *[1] * (g.ndim - 1)))
