"""Captured attention against transformer-lens' patterns, the model's own output, and padding."""

from collections.abc import Callable

import pytest
import torch

from sparse_rep.attention.capture import attention_layers, attention_seen
from sparse_rep.attention.dense import dense
from sparse_rep.attention.layer import LayerAttention
from sparse_rep.config import ModelConfig
from sparse_rep.errors import ConfigError
from sparse_rep.hosting.load import load_model
from sparse_rep.hosting.model import HostedModel

FAMILIES = ["llama", "gpt2", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "gpt_oss", "gpt_neox", "mistral"]


def hosted(directory: str, backend: str = "transformers") -> HostedModel:
    return load_model(ModelConfig.checked({"name": directory, "backend": backend, "device": "cpu"}))


def seen(
    model: HostedModel, ids: torch.Tensor, lengths: list[int] | None = None
) -> dict[tuple[int, int], LayerAttention]:
    found: dict[tuple[int, int], LayerAttention] = {}

    def keep(layer: LayerAttention, row: int) -> None:
        found[layer.layer, row] = layer

    with torch.no_grad(), attention_seen(model, keep, lengths):
        model.logits(ids)
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_patterns_are_those_of_transformer_lens(tiny: Callable[..., str], ids: torch.Tensor, family: str) -> None:
    bridge = hosted(tiny(family), "transformer-lens").bridge  # pyright: ignore[reportAttributeAccessIssue]
    with torch.no_grad():
        _, cache = bridge.run_with_cache(ids, return_type=None, names_filter=lambda name: name.endswith("hook_pattern"))
    layers = seen(hosted(tiny(family)), ids)
    assert len(layers) == 6
    for (layer, row), attention in layers.items():
        ours = torch.stack([attention.probabilities(head, 0, attention.n) for head in range(attention.n_heads)])
        theirs = cache[f"blocks.{layer}.attn.hook_pattern"][row]
        assert (ours - theirs).abs().max() < 1e-5, (layer, row)


def test_learned_sinks_and_windows_are_seen(tiny: Callable[..., str], ids: torch.Tensor) -> None:
    layers = seen(hosted(tiny("gpt_oss")), ids)
    assert [layers[i, 0].window for i in range(3)] == [6, None, 6]
    assert all(layer.sinks is not None for layer in layers.values())
    share = dense(layers[1, 0]).sunk
    assert share is not None
    torch.testing.assert_close(share[0], 1 - layers[1, 0].probabilities(0, 0, 24).sum(-1))
    assert seen(hosted(tiny("gemma2")), ids)[0, 0].softcap == 1.0


@pytest.mark.parametrize("family", ["llama", "gpt_oss", "gemma2"])
def test_the_model_computes_what_it_did_and_is_left_as_it_was(
    tiny: Callable[..., str], ids: torch.Tensor, family: str
) -> None:
    model = hosted(tiny(family))
    with torch.no_grad():
        before = model.logits(ids)
        with attention_seen(model, lambda layer, row: None):
            during = model.logits(ids)
        after = model.logits(ids)
    assert (before - during).abs().max() < 1e-5
    assert torch.equal(before, after)


@pytest.mark.parametrize("family", ["llama", "mistral", "gpt_oss"])
def test_a_padded_text_gives_what_it_gives_alone(tiny: Callable[..., str], ids: torch.Tensor, family: str) -> None:
    model = hosted(tiny(family))
    ids[1, 15:] = 0
    padded, alone = seen(model, ids, [24, 15]), seen(model, ids[1:, :15])
    for layer in range(3):
        a, b = padded[layer, 1], alone[layer, 0]
        assert a.n == 15
        assert a.window == b.window
        for name in ("q", "k", "v"):
            torch.testing.assert_close(getattr(a, name), getattr(b, name), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(dense(a).out, dense(b).out, atol=1e-5, rtol=1e-5)


def test_what_a_visitor_returns_takes_the_place_of_the_layers_output(
    tiny: Callable[..., str], ids: torch.Tensor
) -> None:
    model = hosted(tiny("llama"))

    def nothing(layer: LayerAttention, row: int) -> torch.Tensor | None:
        return torch.zeros_like(layer.q) if layer.layer == 1 else None

    with torch.no_grad(), attention_seen(model, nothing):
        z = model.capture(ids, None, ["blocks.1.attn.hook_z"])["blocks.1.attn.hook_z"]
    assert z.abs().max() == 0


def test_a_model_without_such_attention_says_what_it_holds(tiny: Callable[..., str]) -> None:
    model = hosted(tiny("llama"))
    for block in model.model.model.layers:
        block.self_attn.forward = lambda hidden_states, **_: (hidden_states, None)
    with pytest.raises(ConfigError, match=r"no attention that goes through transformers' interface.*LlamaAttention"):
        attention_layers(model)


def test_another_backend_is_refused(tiny: Callable[..., str]) -> None:
    with (
        pytest.raises(ConfigError, match="backend transformers only"),
        attention_seen(hosted(tiny("llama"), "transformer-lens"), lambda layer, row: None),
    ):
        pass


def test_a_mask_that_is_no_window_is_refused(tiny: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import masking_utils

    model = hosted(tiny("llama"))
    chunked = masking_utils.chunked_causal_mask_function(5, torch.zeros(2, dtype=torch.int64))
    monkeypatch.setattr(masking_utils, "causal_mask_function", chunked)
    with pytest.raises(ConfigError, match="neither causal nor a sliding window"):
        seen(model, torch.randint(2, 300, (1, 18)))
