"""Changing activations: everything downstream sees the change, and nothing of it stays."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from sparse_rep.config import ModelConfig
from sparse_rep.hosting.load import load_model
from sparse_rep.hosting.model import HostedModel

BACKENDS = ["transformers", "transformer-lens"]
KINDS = ["hook_resid_pre", "attn.hook_z", "hook_attn_out", "hook_resid_mid", "hook_mlp_out", "hook_resid_post"]


def host(directory: str, backend: str = "transformers") -> HostedModel:
    return load_model(ModelConfig.checked({"name": directory, "device": "cpu", "backend": backend}))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "gemma2", "olmo2", "gpt_oss"])
def test_an_edit_changes_the_logits_while_it_lasts_and_leaves_no_trace(
    family: str, backend: str, tiny: Callable[..., str], ids: Tensor
) -> None:
    model = host(tiny(family), backend)
    before = model.logits(ids)
    for hook in ["hook_embed", *(f"blocks.1.{kind}" for kind in KINDS)]:
        if hook not in model.hooks():
            continue
        with model.edit(hook, lambda x: x):
            assert torch.equal(model.logits(ids), before), hook
        with model.edit(hook, lambda x: x.roll(1, dims=-1)):
            assert (model.logits(ids) - before).abs().max() > 1e-3, hook
        assert torch.equal(model.logits(ids), before), hook


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox-sequential", "gemma2", "olmo2"])
def test_both_backends_edit_the_same_thing(family: str, tiny: Callable[..., str], ids: Tensor) -> None:
    ours, bridged = host(tiny(family)), host(tiny(family), "transformer-lens")
    for kind in KINDS:
        logits = []
        for model in (ours, bridged):
            with model.edit(f"blocks.1.{kind}", lambda x: x.roll(1, dims=-1)):
                logits.append(model.logits(ids))
        torch.testing.assert_close(*logits, atol=2e-5, rtol=1e-5, msg=lambda m, k=kind: f"{k}: {m}")


def test_editing_the_end_of_a_block_is_running_the_rest_from_there(tiny: Callable[..., str], ids: Tensor) -> None:
    model = host(tiny("llama"))
    start = torch.randn(2, 12, model.d_model)
    with model.edit("blocks.0.hook_resid_post", lambda _: start):
        edited = model.logits(ids)
    llama = model.model.model
    positions = llama.rotary_emb(start, torch.arange(12)[None])
    causal = torch.full((12, 12), -torch.inf).triu(1)[None, None]
    x = start
    for layer in llama.layers[1:]:
        x = layer(x, position_embeddings=positions, attention_mask=causal)
        x = x[0] if isinstance(x, tuple) else x
    torch.testing.assert_close(edited, model.model.lm_head(llama.norm(x)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("hook", "weights"),
    [("hook_mlp_out", "mlp.down_proj"), ("hook_attn_out", "self_attn.o_proj"), ("attn.hook_z", "self_attn.o_proj")],
)
def test_zeroing_a_sublayer_is_a_model_without_it(
    hook: str, weights: str, tiny: Callable[..., str], ids: Tensor
) -> None:
    model = host(tiny("llama"))
    with model.edit(f"blocks.1.{hook}", torch.zeros_like):
        edited = model.logits(ids)
    model.model.get_submodule(f"model.layers.1.{weights}").weight.zero_()
    assert torch.equal(edited, model.logits(ids))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_change_in_the_middle_of_a_block_stays_in_the_stream(
    backend: str, tiny: Callable[..., str], ids: Tensor
) -> None:
    model = host(tiny("llama"), backend)
    new = torch.randn(2, 12, model.d_model)
    with model.edit("blocks.1.hook_resid_mid", lambda _: new):
        x = model.capture(ids, None, ["blocks.1.hook_resid_mid", "blocks.1.hook_mlp_out", "blocks.1.hook_resid_post"])
    assert torch.equal(x["blocks.1.hook_resid_mid"], new)
    torch.testing.assert_close(new + x["blocks.1.hook_mlp_out"], x["blocks.1.hook_resid_post"], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_edits_nest_and_the_later_one_sees_what_the_earlier_returned(
    backend: str, tiny: Callable[..., str], ids: Tensor
) -> None:
    model = host(tiny("llama"), backend)
    hook, middle = "blocks.1.hook_resid_post", "blocks.1.hook_resid_mid"
    plain = model.capture(ids, None, [hook, middle])
    with model.edit(hook, lambda x: x + 1), model.edit(hook, lambda x: 2 * x):
        torch.testing.assert_close(model.capture(ids, None, [hook])[hook], 2 * (plain[hook] + 1))
    with model.edit(hook, torch.zeros_like), model.edit(middle, lambda x: x + 1):
        assert (model.capture(ids, None, [hook])[hook] == 0).all()
    with model.edit(middle, lambda x: x + 1), model.edit(middle, lambda x: 2 * x):
        torch.testing.assert_close(model.capture(ids, None, [middle])[middle], 2 * (plain[middle] + 1))


def test_gradients_flow_to_what_an_edit_brings_in(tiny: Callable[..., str], ids: Tensor) -> None:
    model = host(tiny("llama"))
    direction = torch.zeros(model.d_model, requires_grad=True)
    with model.edit("blocks.1.hook_resid_post", lambda x: x + direction):
        model.loss(ids).sum().backward()
    assert direction.grad is not None
    assert direction.grad.norm() > 0
