"""The hierarchy toy from end to end: every method on the same worlds, all seeds of a method at once."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any, Literal

import torch
from pydantic import Field

from sparse_rep.config_base import Config
from sparse_rep.evaluation.fidelity.hierarchy import EXPECTED_L0, N_FEATURES, RMS_NORM, HierarchyWorlds
from sparse_rep.evaluation.fidelity.hierarchy_scores import hierarchy_scores
from sparse_rep.evaluation.fidelity.ledger import Ledger
from sparse_rep.evaluation.fidelity.populations import (
    BatchTopKPopulation,
    MatryoshkaPopulation,
    Population,
    StandardPopulation,
    initial_atoms,
)
from sparse_rep.evaluation.fidelity.pursuit_population import PursuitPopulation
from sparse_rep.evaluation.fidelity.recipe import PopulationTraining
from sparse_rep.progress import Reporter

Method = Literal["mp", "batchtopk", "standard", "matryoshka"]

SAVE_SECONDS = 30.0


class HierarchySettings(Config):
    """The toy of arXiv 2506.03093, appendix B.1; the defaults are the paper's."""

    correlation: float = Field(default=0.0, ge=0, lt=1)
    """Pairwise cosine of the parents, and of the children of one parent."""
    n_seeds: int = Field(default=10, ge=1)
    """Seeds 0, 1, ...: each has a world, a stream of tokens and initial weights of its own."""
    methods: tuple[Method, ...] = ("mp", "batchtopk", "standard", "matryoshka")
    """What is trained."""
    n_steps: int = Field(default=15_000, ge=1)
    """Optimiser steps."""
    batch_tokens: int = Field(default=200, ge=1)
    """Tokens a step."""
    heldout_tokens: int = Field(default=20_000, ge=1)
    """Tokens that latents are matched and scored on."""


def run_hierarchy(settings: HierarchySettings, ledger: Ledger, reporter: Reporter) -> list[dict[str, Any]]:
    """One row a method and seed: method, seed, correlation and the fields of `HierarchyScores`.

    Rows of finished methods and the training state of the one under way are kept in the ledger.
    """
    worlds = HierarchyWorlds(range(settings.n_seeds), settings.correlation, settings.batch_tokens)
    rows = []
    for method in settings.methods:
        found = ledger.results(method)
        if found is None:
            population = _population(method, worlds, settings.n_steps)
            training = PopulationTraining(population, worlds.batch, settings.n_steps)
            _train(training, method, ledger, reporter, f"{method}, correlation {settings.correlation:g}")
            found = _scores(method, population, worlds, settings)
            ledger.write(method, found)
        rows += found
    return rows


def _population(method: Method, worlds: HierarchyWorlds, n_steps: int) -> Population:
    atoms = initial_atoms(N_FEATURES, N_FEATURES, worlds.seeds)
    if method == "mp":
        return PursuitPopulation(atoms, tolerance=0.05, max_steps=N_FEATURES)
    if method == "batchtopk":
        return BatchTopKPopulation(atoms, EXPECTED_L0, first_l0=3, settle=1000)
    scale = RMS_NORM / N_FEATURES**0.5  # these two see tokens of norm sqrt(d), as the reference code's do
    if method == "standard":
        return StandardPopulation(atoms, EXPECTED_L0, n_steps, scale)
    return MatryoshkaPopulation(atoms, EXPECTED_L0, n_steps, worlds.seeds, scale)


def _train(training: PopulationTraining, part: str, ledger: Ledger, reporter: Reporter, name: str) -> None:
    state = ledger.state(part)
    if state is not None:
        training.load_state_dict(state)
    saved = time.monotonic()
    with reporter.task(name, training.n_steps, unit="steps", done=training.step) as advance:
        for _ in training.steps():
            advance(1)
            if time.monotonic() - saved > SAVE_SECONDS:
                ledger.save_state(part, training.state_dict())
                saved = time.monotonic()


@torch.no_grad()
def _scores(
    method: Method, population: Population, worlds: HierarchyWorlds, settings: HierarchySettings
) -> list[dict[str, Any]]:
    x, truth = worlds.heldout(settings.heldout_tokens)
    codes = population.encode(x)
    x_hat = population.decode(codes)
    return [
        {
            "method": method,
            "seed": seed,
            "correlation": settings.correlation,
            **asdict(hierarchy_scores(population.atoms[i], codes[i], x[i], x_hat[i], worlds.directions[i], truth[i])),
        }
        for i, seed in enumerate(worlds.seeds)
    ]
