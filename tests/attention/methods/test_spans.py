"""MoA's calibration on a real forward and backward pass."""

import pytest
import torch
import torch.nn.functional as F

from sparse_rep.attention.capture import attention_seen
from sparse_rep.attention.dense import dense
from sparse_rep.attention.methods.moa import MoA
from sparse_rep.attention.spans import calibrate, loss_influence
from sparse_rep.config import ModelConfig
from sparse_rep.errors import ConfigError
from sparse_rep.hosting.load import load_model


@pytest.fixture
def model(tiny):
    return load_model(ModelConfig(name=tiny("llama")))


def loss(model, ids, visit) -> float:
    with torch.no_grad(), attention_seen(model, visit):
        logits = model.model(input_ids=ids[None]).logits[0].double()
    return F.cross_entropy(logits[:-1], ids[1:]).item()


def test_influence_foretells_what_masking_a_pair_does_to_the_loss(model) -> None:
    """In rows of many keys one pair moves the output little, so that first order is nearly all there is."""
    ids = torch.randint(5, 60, (24,), generator=torch.Generator().manual_seed(0))
    found = loss_influence(model, ids, block=1)
    plain = loss(model, ids, lambda layer, row: None)
    told, seen = [], []
    for at, head, i, j in [(0, 0, 12, 2), (0, 1, 20, 0), (1, 0, 10, 10), (1, 1, 15, 3), (0, 0, 18, 1), (1, 1, 22, 5)]:

        def masked(layer, row, at=at, head=head, i=i, j=j):
            if layer.layer != at:
                return None
            out = dense(layer).out.clone()
            s = layer.logits(head, i, i + 1)[0].clone()
            s[j] = float("-inf")
            out[head, i] = s.softmax(-1) @ layer.v[layer.kv_of(head)]
            return out

        told.append(found[at][head, i, j].item())
        seen.append(loss(model, ids, masked) - plain)
    told, seen = torch.tensor(told), torch.tensor(seen)
    assert seen.abs().max() > 1e-6
    assert (told - seen).abs().max() < 0.1 * seen.abs().max()


def test_calibrated_spans_are_one_a_head_and_moa_runs_with_them(model, layer_of) -> None:
    draw = torch.Generator().manual_seed(0)
    texts = {n: [torch.randint(5, 60, (n,), generator=draw)] for n in (96, 128)}
    config = calibrate(model, texts, density=0.6, candidates=[(8.0, 0.0), (8.0, 0.5), (8.0, 1.0)], block=8)
    assert [len(layer) for layer in config.spans] == [model.n_heads] * model.n_layers
    layer = layer_of(n=128, heads=model.n_heads, kv_heads=model.n_heads)
    method = MoA(config)
    assert method.applies(layer.context).holds
    assert method.estimate(layer, None).notes["spans"] == [a + b * 128 for a, b in config.spans[0]]
    other = layer_of(n=128, heads=model.n_heads + 1, kv_heads=model.n_heads + 1)
    assert "of another model" in method.applies(other.context).reason


def test_the_model_is_left_as_it_was(model) -> None:
    ids = torch.arange(5, 29)
    before = model.logits(ids[None])
    loss_influence(model, ids, block=8)
    assert torch.equal(model.logits(ids[None]), before)
    assert all(p.grad is None for p in model.model.parameters())


def test_calibrating_on_nothing_is_refused(model) -> None:
    with pytest.raises(ConfigError, match="at least one text"):
        calibrate(model, {64: []})


def test_texts_too_short_for_blocks_of_64_at_the_density_are_refused(model) -> None:
    with pytest.raises(ConfigError, match="the narrowest span keeps 100% of the pairs of 96 tokens, more than 50%"):
        calibrate(model, {96: [torch.arange(5, 55).repeat(2)[:96]]})
