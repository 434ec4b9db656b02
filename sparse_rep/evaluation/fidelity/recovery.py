"""Feature recovery on SynthSAEBench (Chanin et al. 2026, arXiv 2602.14687), which sae-lens carries, at an eighth of its width.

The world has what the hierarchy toy leaves out: many more features than dimensions, correlated firing, three levels of
hierarchy. Published results there have Matryoshka first in recovery and matching pursuit first in reconstruction.
World and recovery metrics are sae-lens' own code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from sparse_rep.activations import TensorSource
from sparse_rep.config import TrainConfig
from sparse_rep.config_base import Config
from sparse_rep.config_dictionary import (
    BatchTopKConfig,
    DictionarySettings,
    MatryoshkaConfig,
    MPConfig,
    StandardConfig,
    TopKConfig,
)
from sparse_rep.evaluation.fidelity.ledger import Ledger
from sparse_rep.evaluation.fidelity.streams import HELDOUT, TOKENS, WORLD, generator
from sparse_rep.metrics import ReconstructionStats
from sparse_rep.progress import Reporter
from sparse_rep.saes.coder import Dictionary
from sparse_rep.saes.registry import build_coder
from sparse_rep.saes.training.trainer import train


class RecoverySettings(Config):
    """One world a seed, every architecture on the same stream of it."""

    n_seeds: int = Field(default=10, ge=1)
    """Worlds 0, 1, ..."""
    n_features: int = Field(default=2048, ge=128)
    """Features of the world; SynthSAEBench-16k has 16,384. Its 128 trees, too, are an eighth: 16, and 4 children a node."""
    d: int = Field(default=96, ge=2)
    """Dimensions; 768 there."""
    max_probability: float = Field(default=0.16, gt=0, le=1)
    """Of the most frequent feature, the rest falling as rank^-1/2 to 5e-4; 0.4 there, which here would be 11 features a token."""
    n_latents: int = Field(default=512, ge=1)
    """Dictionary size, a quarter of the features as there."""
    k: int = Field(default=4, ge=1)
    """Active latents a token: about the mean number of features."""
    world_tokens: int = Field(default=131_072, ge=1)
    """Tokens drawn and kept; training passes over them."""
    n_tokens: int = Field(default=1_000_000, ge=1)
    """Training tokens."""
    batch_tokens: int = Field(default=1024, ge=1)
    """Tokens a step, as there."""
    lr: float = Field(default=3e-3, gt=0)
    """Peak learning rate."""
    heldout_tokens: int = Field(default=20_000, ge=1)
    """Tokens scored."""

    def architectures(self) -> Mapping[str, DictionarySettings]:
        """What is trained, all to the same number of active latents."""
        return {
            "matryoshka": MatryoshkaConfig(n_latents=self.n_latents, k=self.k),
            "batchtopk": BatchTopKConfig(n_latents=self.n_latents, k=self.k),
            "topk": TopKConfig(n_latents=self.n_latents, k=self.k),
            "mp": MPConfig(n_latents=self.n_latents, k=self.k),
            # Short runs: the weight must find its place in a few hundred steps.
            "standard": StandardConfig(
                n_latents=self.n_latents,
                penalty=1.0,
                target_l0=self.k,
                penalty_rate=1e-2,
                penalty_warmup_tokens=self.n_tokens // 20,
            ),
        }


def run_recovery(settings: RecoverySettings, ledger: Ledger, reporter: Reporter) -> list[dict[str, Any]]:
    """One row a world and architecture: explained variance and L0 beside sae-lens' recovery metrics.

    `mcc`: mean |cosine| of latents and features paired one to one; `f1`, `precision`, `recall`: of each latent as a detector
    of the feature its atom is nearest to, averaged over latents; `uniqueness`: distinct such features over latents.
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


def _world(
    settings: RecoverySettings, seed: int, ledger: Ledger, part: str, reporter: Reporter
) -> list[dict[str, Any]]:
    world = synthetic_model(settings, seed)
    x, _ = draw(world, settings.world_tokens, seed, TOKENS)
    coders = {name: build_coder(config, settings.d) for name, config in settings.architectures().items()}
    recipe = TrainConfig(
        n_tokens=settings.n_tokens, batch_tokens=settings.batch_tokens, lr=settings.lr, seed=seed, buffer_tokens=65_536
    )
    n_tokens = settings.n_tokens // settings.batch_tokens * settings.batch_tokens
    with reporter.task(f"recovery, world {seed}", n_tokens) as advance:
        train(
            coders,
            TensorSource(x),
            recipe,
            checkpoint=ledger.state_path(part),
            on_step=lambda _, tokens: advance(tokens),
        )
    x, features = draw(world, settings.heldout_tokens, seed, HELDOUT)
    directions = world.feature_dict.feature_vectors.detach()
    return [
        {"method": name, "seed": seed, **recovery_scores(coder.eval(), x, features, directions)}
        for name, coder in coders.items()
    ]


def synthetic_model(settings: RecoverySettings, seed: int) -> Any:
    """SynthSAEBench-16k's make-up at another size; its feature vectors are here random rather than pushed apart."""
    from sae_lens import synthetic

    return synthetic.SyntheticModel(
        synthetic.SyntheticModelConfig(
            num_features=settings.n_features,
            hidden_dim=settings.d,
            firing_probability=synthetic.ZipfianFiringProbabilityConfig(
                exponent=0.5, max_prob=settings.max_probability, min_prob=5e-4
            ),
            hierarchy=synthetic.HierarchyConfig(
                total_root_nodes=settings.n_features // 128,
                branching_factor=4,
                max_depth=3,
                mutually_exclusive_portion=1.0,
                compensate_probabilities=True,
            ),
            correlation=synthetic.LowRankCorrelationConfig(rank=25, correlation_scale=0.1),
            mean_firing_magnitudes=synthetic.LinearMagnitudeConfig(start=5.0, end=4.0),
            std_firing_magnitudes=synthetic.FoldedNormalMagnitudeConfig(mean=0.5, std=0.5),
            bias=10.0,
            seed=generator(seed, WORLD).initial_seed() % 2**31,
        )
    )


@torch.no_grad()
def draw(world: Any, n: int, seed: int, stream: int) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n f"]]:
    """Tokens and the magnitudes of their features; sae-lens draws from torch's global state, which is put back."""
    with torch.random.fork_rng(devices=[]):
        torch.random.set_rng_state(generator(seed, stream).get_state())
        parts = [world.sample_with_features(min(4096, n - start)) for start in range(0, n, 4096)]
    return torch.cat([x for x, _ in parts]), torch.cat([features for _, features in parts])


@torch.no_grad()
def recovery_scores(
    dictionary: Dictionary, x: Float[Tensor, "n d"], features: Float[Tensor, "n f"], directions: Float[Tensor, "f d"]
) -> dict[str, float]:
    """Reconstruction and recovery of one dictionary on tokens whose features are known."""
    from sae_lens.synthetic import compute_classification_metrics, feature_uniqueness, mean_correlation_coefficient

    codes = dictionary.encode(x)
    atoms = dictionary.atoms.detach()
    stats = ReconstructionStats(x.shape[1], dictionary.n_latents)
    stats.update(x, dictionary.decode(codes), codes)
    summary = stats.summary()
    detectors = compute_classification_metrics(codes.dense(), features, atoms, directions)
    return {
        "mcc": mean_correlation_coefficient(atoms, directions),
        "f1": detectors.f1_score,
        "precision": detectors.precision,
        "recall": detectors.recall,
        "uniqueness": feature_uniqueness(atoms, directions),
        "explained_variance": summary["explained_variance"],
        "l0": summary["l0"],
        "true_l0": float((features > 0).sum(-1).float().mean()),
        "dead_share": summary["dead_share"],
    }
