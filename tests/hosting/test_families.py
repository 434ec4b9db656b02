"""Our hooks against transformer-lens' bridge, on a tiny random model of every family."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from sparse_rep.config import ModelConfig
from sparse_rep.hosting.families import FAMILIES
from sparse_rep.hosting.load import load_model

# Mixtures whose hooks are checked against transformers itself, in tests/routing/test_capture.py.
MIXTURES = {"deepseek_v2", "deepseek_v3", "granitemoe", "llama4_text", "phimoe"}
VARIANTS = [*(f for f in FAMILIES if f not in MIXTURES), "gpt_neox-sequential"]
PARALLEL = {"gpt_neox", "phi"}


@pytest.mark.parametrize("family", VARIANTS)
def test_every_hook_holds_what_transformer_lens_calls_by_its_name(
    family: str, tiny: Callable[..., str], ids: Tensor
) -> None:
    ours = load_model(ModelConfig(name=tiny(family), device="cpu"))
    bridged = load_model(ModelConfig(name=tiny(family), device="cpu", backend="transformer-lens"))
    assert ours.hooks() == bridged.hooks()
    mine, theirs = ours.capture(ids, None, ours.hooks()), bridged.capture(ids, None, bridged.hooks())
    for hook in ours.hooks():
        assert mine[hook].shape == (*ids.shape, ours.width(hook))
        torch.testing.assert_close(mine[hook], theirs[hook], atol=1e-5, rtol=1e-5, msg=lambda m, h=hook: f"{h}: {m}")
    torch.testing.assert_close(ours.logits(ids), bridged.logits(ids), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("family", VARIANTS)
def test_the_stream_is_the_sum_of_what_the_sublayers_write(family: str, tiny: Callable[..., str], ids: Tensor) -> None:
    model = load_model(ModelConfig(name=tiny(family), device="cpu"))
    x = model.capture(ids, None, model.hooks())
    for layer in range(model.n_layers):
        at = {
            name.removeprefix(f"blocks.{layer}."): value
            for name, value in x.items()
            if name.startswith(f"blocks.{layer}.")
        }
        middle = at["hook_resid_pre"] + at["hook_attn_out"]
        torch.testing.assert_close(middle + at["hook_mlp_out"], at["hook_resid_post"], atol=1e-5, rtol=1e-5)
        assert ("hook_resid_mid" in at) == (family not in PARALLEL)
        if "hook_resid_mid" in at:
            torch.testing.assert_close(middle, at["hook_resid_mid"], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", VARIANTS)
def test_unembedding_the_last_residual_gives_the_logits(family: str, tiny: Callable[..., str], ids: Tensor) -> None:
    """W_U and the norm's scale explain the logits, but for what the norm subtracts and adds and a final soft cap."""
    model = load_model(ModelConfig(name=tiny(family), device="cpu"))
    W_U, scale = model.unembed()
    last = f"blocks.{model.n_layers - 1}.hook_resid_post"
    x = model.capture(ids, None, [last])[last]
    layer_norm = family.startswith(("gpt_neox", "gpt2", "phi", "olmo")) and family not in ("phi3", "olmo2", "olmoe")
    if layer_norm:
        x = x - x.mean(-1, keepdim=True)
    eps = getattr(model.model.config, "rms_norm_eps", getattr(model.model.config, "layer_norm_eps", 1e-5))
    normed = x * (x.square().mean(-1, keepdim=True) + eps).rsqrt() * (1 if scale is None else scale)
    logits = model.logits(ids)
    if family == "gemma2":
        logits = 2.0 * torch.atanh(logits / 2.0)
    direct = normed @ W_U.T
    offset = (logits - direct)[0, 0]  # the norm's bias and the unembedding's, the same everywhere
    torch.testing.assert_close(direct + offset, logits, atol=1e-3, rtol=1e-3)
    if not layer_norm:
        torch.testing.assert_close(offset, torch.zeros_like(offset), atol=1e-3, rtol=0)
