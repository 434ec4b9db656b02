"""An expert taken out is out, nothing else is touched, and the interval of a change covers what it should."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mixtures import MIXTURES, SPARSE_LAYERS, save_mixture
from torch import Tensor

from sparse_rep.config import ModelConfig
from sparse_rep.errors import ConfigError
from sparse_rep.hosting.load import load_model
from sparse_rep.hosting.views import View
from sparse_rep.routing.ablation import ExpertAblation, Losses, compare
from sparse_rep.routing.capture import routing_activations


@pytest.fixture
def ids() -> Tensor:
    return torch.randint(0, 300, (3, 9), generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("family", MIXTURES)
def test_an_ablated_expert_gives_nothing_and_leaves_no_trace(family: str, tmp_path: Path, ids: Tensor) -> None:
    """The oracle zeroes what the expert computes from (its last matrix), and leaves the router alone."""
    model = load_model(ModelConfig(name=str(save_mixture(tmp_path, family)), device="cpu"))
    layer = SPARSE_LAYERS.get(family, [1])[0]
    whole = model.logits(ids)
    expert = int(routing_activations(model, ids)[f"blocks.{layer}.mlp.hook_expert_indices"].flatten()[0])
    with View(model, (ExpertAblation([(layer, expert)]),)).applied() as changed:
        ablated = changed.logits(ids)
    assert torch.equal(model.logits(ids), whole)
    assert not torch.equal(ablated, whole)
    inside = [m for n, m in model.model.named_modules() if f"layers.{layer}." in n and n.endswith(".experts")]
    experts: Any = inside[0]
    with torch.no_grad():
        experts.down_proj[expert] = 0
        if hasattr(experts, "down_proj_bias"):
            experts.down_proj_bias[expert] = 0
    torch.testing.assert_close(ablated, model.logits(ids), atol=1e-5, rtol=1e-5)


def test_an_expert_that_no_token_chose_changes_nothing(tmp_path: Path, ids: Tensor) -> None:
    model = load_model(ModelConfig(name=str(save_mixture(tmp_path, "deepseek_v3")), device="cpu"))
    used = routing_activations(model, ids)["blocks.2.mlp.hook_expert_indices"].unique().tolist()
    idle = next(e for e in range(16) if e not in used)
    before = model.loss(ids)
    with ExpertAblation([(2, idle)]).apply(model):
        assert torch.equal(model.loss(ids), before)


def test_renormalised_weights_keep_their_sum(tmp_path: Path, ids: Tensor) -> None:
    model = load_model(ModelConfig(name=str(save_mixture(tmp_path, "mixtral")), device="cpu"))
    seen: list[Tensor] = []
    gate = model.model.model.layers[0].mlp.gate
    first = int(routing_activations(model, ids)["blocks.0.mlp.hook_expert_indices"].flatten()[0])
    with ExpertAblation([(0, first)], renormalise=True).apply(model):
        handle = gate.register_forward_hook(lambda _m, _i, out: seen.append(out[1]))
        model.logits(ids)
        handle.remove()
    torch.testing.assert_close(seen[0].sum(-1), torch.ones(ids.numel()), atol=1e-6, rtol=0)
    assert (seen[0] == 0).any()


@pytest.mark.parametrize(("expert", "why"), [((0, 3), "has no router"), ((1, 16), "chooses from 16 experts")])
def test_an_expert_that_is_not_there_is_named(expert: tuple[int, int], why: str, tmp_path: Path) -> None:
    model = load_model(ModelConfig(name=str(save_mixture(tmp_path, "deepseek_v3")), device="cpu"))
    with pytest.raises(ConfigError, match=why), ExpertAblation([expert]).apply(model):
        pass


def test_intervals_cover_the_true_change_and_widen_for_documents_that_differ() -> None:
    """Planted: documents whose changes are drawn around 0.1. About 95 % of intervals hold it; none for a single document."""
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        n = rng.integers(50, 150, 40)
        before = Losses(n * 3.0, n)
        after = Losses(before.total + n * rng.normal(0.1, 0.3, 40), n)
        found = compare(before, after)
        covered += found.lo <= 0.1 <= found.hi
    assert 0.91 <= covered / 400 <= 0.98
    assert np.isnan(compare(before, after, np.arange(40) == 3).lo)
    equal = compare(before, before)
    assert (equal.change, equal.lo, equal.hi) == (0, 0, 0)
