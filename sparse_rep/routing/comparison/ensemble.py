"""Many trials of one gate trained as one: their parameters side by side, one step for all."""

from __future__ import annotations

import copy
import math
from dataclasses import astuple, dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.func import functional_call, stack_module_state, vmap

from sparse_rep.routing.comparison.contenders import Trial
from sparse_rep.routing.comparison.tasks import Part, Task
from sparse_rep.routing.gates.leaf_order import LeafOrder, nearest_permutations

THETA = "gate.order.theta"
SEARCH_SHARE = 0.1
"""Share of the steps in which leaf orders are searched for; COMET+'s paper gives it the first 1 to 10 epochs."""


@dataclass(frozen=True)
class Outcome:
    """What each trial came to at its best epoch on the validation rows."""

    validation: Float[Tensor, " trials"]
    """Score with the k heaviest experts of each row."""
    test: Float[Tensor, " trials"]
    """The same on the test rows."""
    test_as_trained: Float[Tensor, " trials"]
    """With every expert that the gate uses: more than k while a gate is soft."""
    experts_used: Float[Tensor, " trials"]
    """Mean number of experts with a weight over 0."""
    top_expert: Int[Tensor, "trials n"]
    """Heaviest expert of each test row."""


class Ensemble:
    """Layers of one kind with their settings in buffers: `forward` runs them all on the same rows."""

    def __init__(self, trials: list[Trial]) -> None:
        layers = [t.layer for t in trials]
        self.skeleton = copy.deepcopy(layers[0])
        self.params, self.buffers = stack_module_state(layers)  # pyright: ignore[reportArgumentType]
        self.params = {name: p.detach().requires_grad_() for name, p in self.params.items()}
        self.lr = torch.tensor([t.lr for t in trials])
        self._moments = {name: (torch.zeros_like(p), torch.zeros_like(p)) for name, p in self.params.items()}
        self._steps = 0

    @property
    def order(self) -> LeafOrder | None:
        return getattr(self.skeleton.gate, "order", None)

    def forward(self, x: Tensor, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Outputs (trials, n, d_out), weights (trials, n, e) and penalties (trials,)."""

        def one(params: dict[str, Tensor], buffers: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
            return functional_call(self.skeleton, (params, buffers), (x, ids))

        return vmap(one, randomness="different")(self.params, self.buffers)

    def step(self, losses: Float[Tensor, " trials"], lr_share: float) -> None:
        """Adam (Kingma & Ba 2015, its usual constants) with each trial's own learning rate."""
        names = [name for name, p in self.params.items() if p.requires_grad]
        gradients = torch.autograd.grad(losses.sum(), [self.params[n] for n in names])
        self._steps += 1
        bias1, bias2 = 1 - 0.9**self._steps, 1 - 0.999**self._steps
        with torch.no_grad():
            for name, gradient in zip(names, gradients, strict=True):
                mean, square = self._moments[name]
                mean.lerp_(gradient, 0.1)
                square.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
                lr = (lr_share * self.lr).view(-1, *[1] * (gradient.ndim - 1))
                self.params[name] -= lr * (mean / bias1) / ((square / bias2).sqrt() + 1e-8)

    def settle(self) -> None:
        """Round every trial's leaf orders to permutations, for good."""
        assert self.order is not None
        self.params[THETA] = nearest_permutations(self.params[THETA].detach())
        self.order.searching = False


def train_together(trials: list[Trial], task: Task, epochs: int, batch: int, seed: int) -> Outcome:
    """Train every trial on the same batches, learning rates falling along a cosine, and keep each at its best epoch."""
    ensemble = Ensemble(trials)
    random = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    per_epoch = len(task.train.x) // batch
    total = epochs * per_epoch
    search = round(SEARCH_SHARE * total) if ensemble.order is not None else 0
    best: Outcome | None = None
    for epoch in range(epochs):
        ensemble.skeleton.train()
        order = torch.randperm(len(task.train.x), generator=random)
        for at in range(per_epoch):
            step = epoch * per_epoch + at
            if ensemble.order is not None and step < search:
                ensemble.order.anneal(step / search)
            elif ensemble.order is not None and ensemble.order.searching:
                ensemble.settle()
            rows = order[at * batch : (at + 1) * batch]
            predicted, _, penalty = ensemble.forward(task.train.x[rows], task.train.ids[rows])
            losses = vmap(task.loss, in_dims=(0, None))(predicted, task.train.y[rows]) + penalty
            ensemble.step(losses, 0.5 * (1 + math.cos(math.pi * step / total)))
        best = _better(best, _evaluate(ensemble, task))
    assert best is not None
    return best


@torch.no_grad()
def _evaluate(ensemble: Ensemble, task: Task) -> Outcome:
    ensemble.skeleton.eval()
    test_as_trained, weights = _scores(ensemble, task, task.test)
    ensemble.skeleton.at_most = task.k
    validation, _ = _scores(ensemble, task, task.validation)
    test, _ = _scores(ensemble, task, task.test)
    ensemble.skeleton.at_most = None
    return Outcome(validation, test, test_as_trained, (weights > 0).sum(2).float().mean(1), weights.argmax(2))


def _scores(ensemble: Ensemble, task: Task, part: Part) -> tuple[Tensor, Tensor]:
    predicted, weights, _ = ensemble.forward(part.x, part.ids)
    scores = vmap(task.score, in_dims=(0, None))(predicted, part.y)
    return scores.nan_to_num(float("-inf")), weights


def _better(before: Outcome | None, now: Outcome) -> Outcome:
    """Trial by trial, whichever epoch is better on the validation rows."""
    if before is None:
        return now
    later = now.validation > before.validation
    pairs = zip(astuple(now), astuple(before), strict=True)
    return Outcome(*(torch.where(later.view(-1, *[1] * (a.ndim - 1)), a, b) for a, b in pairs))
