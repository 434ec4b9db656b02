"""The gates that compete, and what each may try: every trial draws its settings anew."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from sparse_rep.routing.comparison.tasks import Task
from sparse_rep.routing.gates.comet import CometGate
from sparse_rep.routing.gates.dselect_k import DSelectKGate
from sparse_rep.routing.gates.gate import Gate
from sparse_rep.routing.gates.hash import HashGate
from sparse_rep.routing.gates.leaf_order import LeafOrder
from sparse_rep.routing.gates.topk import TopKGate
from sparse_rep.routing.small_moe import MoeLayer

LR = (3e-3, 1e-1)
STRENGTH = (1e-4, 1e-1)
"""Of what a gate adds to the loss: balance, or entropy."""
WIDTH = (1.0, 10.0)
"""Of the smooth step. Inputs are standardised: a split much narrower than 1 hardens before it has learned anything."""


@dataclass(frozen=True)
class Trial:
    """One draw of settings: a layer ready to train, and how fast."""

    layer: MoeLayer
    lr: float


class Draws(random.Random):
    """Random settings of one trial."""

    def log_uniform(self, low: float, high: float) -> float:
        return math.exp(self.uniform(math.log(low), math.log(high)))


Build = Callable[[Task, Draws], Gate]


def topk(task: Task, draw: Draws) -> Gate:
    return TopKGate(task.train.x.shape[1], task.n_experts, task.k, balance=draw.log_uniform(*STRENGTH))


def hashed(task: Task, draw: Draws) -> Gate:
    return HashGate(task.n_experts, task.k, seed=draw.randrange(2**31))


def dselect_k(task: Task, draw: Draws) -> Gate:
    return DSelectKGate(task.train.x.shape[1], task.n_experts, task.k, **_smooth(draw))


def comet(task: Task, draw: Draws) -> Gate:
    return CometGate(task.train.x.shape[1], task.n_experts, task.k, **_smooth(draw))


def comet_plus(task: Task, draw: Draws) -> Gate:
    order = LeafOrder(task.k, task.n_experts)
    return CometGate(task.train.x.shape[1], task.n_experts, task.k, order=order, **_smooth(draw))


CONTENDERS: dict[str, Build] = {
    "hash": hashed,
    "topk": topk,
    "dselect-k": dselect_k,
    "comet": comet,
    "comet+": comet_plus,
}


def draw_trials(build: Build, task: Task, n_trials: int, seed: int) -> list[Trial]:
    """`n_trials` layers with fresh weights; trial i has the same learning rate, experts and seed for every gate."""
    trials = []
    for trial in range(n_trials):
        draw = Draws(f"{seed} {trial}")
        lr = draw.log_uniform(*LR)
        torch.manual_seed(draw.randrange(2**31))
        trials.append(Trial(MoeLayer(build(task, draw), task.train.x.shape[1], task.d_out), lr))
    return trials


def _smooth(draw: Draws) -> dict[str, Any]:
    return {"width": draw.log_uniform(*WIDTH), "entropy": draw.log_uniform(*STRENGTH)}
