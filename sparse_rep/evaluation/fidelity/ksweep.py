"""Reconstruction against the number of active latents at inference, and the geometry behind it (arXiv 2506.03093, section 5).

A dictionary trained for k codes is asked for fewer and for more. Matching pursuit goes on explaining the residual; TopK's
later latents were never trained to be there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from sparse_rep.codes import SparseCodes
from sparse_rep.config import TrainConfig
from sparse_rep.config_base import Config
from sparse_rep.config_dictionary import DictionarySettings, MPConfig, TopKConfig
from sparse_rep.evaluation.fidelity import geometry
from sparse_rep.evaluation.fidelity.flat import FlatWorld
from sparse_rep.evaluation.fidelity.ledger import Ledger
from sparse_rep.progress import Reporter
from sparse_rep.saes.coder import Dictionary
from sparse_rep.saes.registry import build_coder
from sparse_rep.saes.training.trainer import train

BABEL_SIZES = (1, 8, 32)
CODES_COMPARED = 2000
"""Tokens over which the overlap of atoms that are active together is averaged."""


class KSweepSettings(Config):
    """TopK and matching pursuit trained alike on `FlatWorld`s."""

    n_seeds: int = Field(default=10, ge=1)
    """Worlds 0, 1, ...; in each, every method is trained from two initialisations, for stability."""
    n_latents: int = Field(default=256, ge=33)
    """Dictionary size: as many as there are features."""
    k: int = Field(default=8, ge=1)
    """Active latents a token in training: the mean number of features."""
    ks: tuple[int, ...] = (1, 2, 4, 8, 12, 16, 24, 32)
    """Active latents a token at inference."""
    n_steps: int = Field(default=1500, ge=1)
    """Optimiser steps."""
    batch_tokens: int = Field(default=512, ge=1)
    """Tokens a step."""
    lr: float = Field(default=3e-3, gt=0)
    """Peak learning rate."""
    heldout_tokens: int = Field(default=20_000, ge=1)
    """Tokens scored."""


def run_ksweep(settings: KSweepSettings, ledger: Ledger, reporter: Reporter) -> list[dict[str, Any]]:
    """One row a world and method (`topk`, `mp`, and `truth`, which has the geometry of the features themselves).

    `nmse_k` by k is sum ||x - x_hat||^2 / sum ||x||^2. `recovery` is the mean over features of the largest cosine an atom has
    with it. See `geometry` for the rest. Worlds that are done are kept in the ledger, as is the training of the one under way.
    """
    rows = []
    for seed in range(settings.n_seeds):
        part = f"world-{seed}"
        found = ledger.results(part)
        if found is None:
            found = _world(settings, seed, ledger, part, reporter)
            ledger.write(part, found)
        rows += found
    return rows


def _world(settings: KSweepSettings, seed: int, ledger: Ledger, part: str, reporter: Reporter) -> list[dict[str, Any]]:
    world = FlatWorld(seed)
    configs: dict[str, DictionarySettings] = {
        "topk": TopKConfig(n_latents=settings.n_latents, k=settings.k),
        "mp": MPConfig(n_latents=settings.n_latents, k=settings.k),
    }
    coders = {f"{name}-{start}": build_coder(c, world.d_in) for name, c in configs.items() for start in (0, 1)}
    n_tokens = settings.n_steps * settings.batch_tokens
    recipe = TrainConfig(
        n_tokens=n_tokens, batch_tokens=settings.batch_tokens, lr=settings.lr, seed=seed, buffer_tokens=16_384
    )
    with reporter.task(f"k-sweep, world {seed}", n_tokens) as advance:
        train(
            coders,
            world,
            recipe,
            seeds={name: 2 * seed + int(name[-1]) for name in coders},
            checkpoint=ledger.state_path(part),
            on_step=lambda _, tokens: advance(tokens),
        )
    x, truth = world.heldout(settings.heldout_tokens)
    rows = []
    for name, config in configs.items():
        one, other = (coders[f"{name}-{start}"].eval() for start in (0, 1))
        wide = build_coder(config.model_copy(update={"k": max(settings.ks)}), world.d_in).eval()
        wide.load_state_dict(one.state_dict())
        atoms = one.atoms.detach()
        rows.append(
            {
                "method": name,
                "seed": seed,
                **{f"nmse_{k}": value for k, value in nmse_by_k(wide, x, settings.ks).items()},
                **_geometry(atoms, one.encode(x), world.directions),
                "stability": geometry.stability(atoms, other.atoms.detach()),
            }
        )
    features = SparseCodes.from_dense(truth)
    return [*rows, {"method": "truth", "seed": seed, **_geometry(world.directions, features, world.directions)}]


@torch.no_grad()
def nmse_by_k(dictionary: Dictionary, x: Float[Tensor, "n d"], ks: tuple[int, ...]) -> Mapping[int, float]:
    """sum ||x - x_hat||^2 / sum ||x||^2 of the first k codes of each token, for coders whose codes come best first."""
    codes = dictionary.encode(x)
    found = {}
    for k in ks:
        x_hat = dictionary.decode(SparseCodes(codes.values[:, :k], codes.indices[:, :k], codes.n_units))
        found[k] = float((x - x_hat).square().sum() / x.square().sum())
    return found


@torch.no_grad()
def _geometry(atoms: Tensor, codes: SparseCodes, directions: Tensor) -> dict[str, float]:
    cosines = geometry.unit(directions) @ geometry.unit(atoms).T
    babel = geometry.babel(atoms, list(BABEL_SIZES))
    return {
        "recovery": float(cosines.amax(-1).mean()),
        **{f"babel_{size}": value for size, value in zip(BABEL_SIZES, babel, strict=True)},
        "coactive_babel": geometry.coactive_babel(atoms, codes.rows(slice(CODES_COMPARED))),
        "near_duplicates": geometry.near_duplicates(atoms),
        "effective_rank": geometry.effective_rank(codes),
    }
