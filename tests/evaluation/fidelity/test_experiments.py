"""The experiments on dictionaries whose answer is planted, and what the papers say at full length (slow)."""

from pathlib import Path
from statistics import median

import pytest
import torch

from sparse_rep.config_dictionary import MPConfig, TopKConfig
from sparse_rep.evaluation.fidelity.flat import FlatWorld
from sparse_rep.evaluation.fidelity.hierarchy_experiment import HierarchySettings, run_hierarchy
from sparse_rep.evaluation.fidelity.ksweep import KSweepSettings, nmse_by_k, run_ksweep
from sparse_rep.evaluation.fidelity.ledger import Ledger
from sparse_rep.evaluation.fidelity.recovery import (
    RecoverySettings,
    draw,
    recovery_scores,
    run_recovery,
    synthetic_model,
)
from sparse_rep.evaluation.fidelity.streams import HELDOUT, TOKENS, generator
from sparse_rep.progress import Reporter
from sparse_rep.saes.coder import Dictionary
from sparse_rep.saes.registry import build_coder
from sparse_rep.saes.unit_rows import random_unit_rows

SILENT = Reporter(silent=True)
TINY = RecoverySettings(n_seeds=1, n_features=128, d=24, n_latents=32, k=2, world_tokens=2048, n_tokens=4096)


def with_atoms(dictionary: Dictionary, atoms: torch.Tensor) -> Dictionary:
    with torch.no_grad():
        for name, parameter in dictionary.named_parameters():
            if name.startswith("W_"):
                parameter.copy_(atoms)
    return dictionary.eval()


def test_features_of_the_flat_world_come_as_often_as_their_rank_says() -> None:
    world = FlatWorld(3)
    x, truth = world.heldout(40_000)
    share = (truth > 0).float().mean(0)
    assert share.sum().item() == pytest.approx(8, rel=0.01)
    assert (share[0] / share[63]).item() == pytest.approx(8, rel=0.15)
    torch.testing.assert_close(x, truth @ world.directions)
    first = next(world.chunks())
    assert not torch.equal(first.x[:100], x[:100])
    assert torch.equal(next(FlatWorld(3).chunks(5)).x, [c.x for c, _ in zip(world.chunks(), range(6), strict=False)][5])


def test_worlds_are_not_drawn_from_the_numbers_that_weights_are() -> None:
    """With one seed for both, a dictionary would start at the truth."""
    world = FlatWorld(0)
    for config in (TopKConfig(n_latents=256, k=8), MPConfig(n_latents=256, k=8)):
        coder = build_coder(config, world.d_in)
        coder.initialise(world.heldout(500)[0], torch.Generator().manual_seed(0))
        assert (world.directions @ coder.atoms.T).amax(-1).mean() < 0.5
    states = [generator(*key).initial_seed() for key in ((0, 1, 0), (1, 0, 0), (0, 0, 1), (0, 0, 0), (1, 0, 1))]
    assert len(set(states)) == len(states)


def test_nmse_by_k_of_orthonormal_atoms_is_the_energy_left() -> None:
    x = torch.tensor([[4.0, 2.0, 1.0, 0.0]])
    for config in (TopKConfig(n_latents=4, k=3), MPConfig(n_latents=4, k=3)):
        found = nmse_by_k(with_atoms(build_coder(config, 4), torch.eye(4)), x, (1, 2, 3))
        assert found == pytest.approx({1: 5 / 21, 2: 1 / 21, 3: 0}, abs=1e-6)


def test_the_k_sweep_goes_on_from_the_worlds_it_has(tmp_path: Path) -> None:
    settings = KSweepSettings(n_seeds=2, n_steps=5, heldout_tokens=500)
    ledger = Ledger(tmp_path / "a")
    rows = run_ksweep(settings, ledger, SILENT)
    assert [(row["method"], row["seed"]) for row in rows] == [
        (m, seed) for seed in (0, 1) for m in ("topk", "mp", "truth")
    ]
    (ledger.directory / "world-1.json").unlink()
    assert run_ksweep(settings, ledger, SILENT) == rows
    truth = rows[2]
    assert truth["recovery"] == pytest.approx(1)
    assert truth["babel_8"] == pytest.approx(2.95, abs=0.15), "256 random directions in 64 dimensions"


def test_true_directions_are_recovered_and_random_ones_are_not() -> None:
    """Half of the features as atoms and their true values as codes: every detector is perfect; random atoms are the null."""
    pytest.importorskip("sae_lens.synthetic")
    world = synthetic_model(TINY, 0)
    x, features = draw(world, 3000, 0, HELDOUT)
    directions = world.feature_dict.feature_vectors.detach()
    chosen = directions[::4]
    perfect = with_atoms(build_coder(MPConfig(n_latents=32, k=32), TINY.d), chosen)

    class Told:
        """The planted dictionary: it is told its codes."""

        atoms, n_latents, decode = perfect.atoms, 32, perfect.decode

        def encode(self, x: torch.Tensor) -> object:
            from sparse_rep.codes import SparseCodes

            return SparseCodes.from_dense(features[:, ::4])

    told = recovery_scores(Told(), x, features, directions)  # pyright: ignore[reportArgumentType]
    assert told["mcc"] == pytest.approx(1, abs=1e-5)
    assert told["uniqueness"] == 1
    fires = ((features[:, ::4] > 0).any(0)).float().mean().item()
    assert told["f1"] == pytest.approx(fires, abs=1e-6), "a feature that never came cannot be detected"
    random = random_unit_rows(32, TINY.d, torch.Generator().manual_seed(5))
    null = recovery_scores(
        with_atoms(build_coder(MPConfig(n_latents=32, k=2), TINY.d), random), x, features, directions
    )
    assert null["f1"] < 0.3
    assert null["mcc"] < 0.75


def test_recovery_has_a_row_an_architecture_and_leaves_torchs_generator_alone(tmp_path: Path) -> None:
    pytest.importorskip("sae_lens.synthetic")
    before = torch.random.get_rng_state()
    rows = run_recovery(TINY, Ledger(tmp_path), SILENT)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert [row["method"] for row in rows] == ["matryoshka", "batchtopk", "topk", "mp", "standard"]
    world = synthetic_model(TINY, 0)
    one, other = (draw(world, 5000, 0, stream)[0] for stream in (TOKENS, HELDOUT))
    assert not torch.equal(one, other)
    assert torch.equal(one, draw(synthetic_model(TINY, 0), 5000, 0, TOKENS)[0])


@pytest.mark.slow
@pytest.mark.parametrize("correlation", [0.0, 0.1])
def test_matching_pursuit_does_not_absorb_where_l1_and_batchtopk_do(tmp_path: Path, correlation: float) -> None:
    """arXiv 2506.03093, table 1 and figure 4, at the paper's length."""
    settings = HierarchySettings(n_seeds=3, correlation=correlation, methods=("mp", "batchtopk", "standard"))
    rows = run_hierarchy(settings, Ledger(tmp_path), SILENT)
    absorption = {m: median(r["absorption"] for r in rows if r["method"] == m) for m in settings.methods}
    assert absorption["mp"] <= 0.01
    assert absorption["batchtopk"] >= 0.35
    assert absorption["standard"] >= 0.35
    assert median(r["recovery"] for r in rows if r["method"] == "mp") > (0.999 if correlation == 0 else 0.995)


@pytest.mark.slow
def test_more_codes_than_trained_for_help_pursuit_and_harm_topk(tmp_path: Path) -> None:
    rows = run_ksweep(KSweepSettings(n_seeds=1), Ledger(tmp_path), SILENT)
    topk, mp = rows[0], rows[1]
    assert mp["nmse_32"] < 0.2 * mp["nmse_8"]
    assert topk["nmse_32"] > topk["nmse_12"]
