"""Reading activations: what is computed, what padding does, and what is left behind."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from sparse_rep.config import ModelConfig
from sparse_rep.errors import ConfigError
from sparse_rep.hosting.load import load_model
from sparse_rep.hosting.model import HostedModel

BACKENDS = ["transformers", "transformer-lens"]


def host(directory: str, backend: str = "transformers") -> HostedModel:
    return load_model(ModelConfig.checked({"name": directory, "device": "cpu", "backend": backend}))


def n_hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "olmoe"])
def test_a_padded_row_gives_what_it_gives_alone(
    family: str, backend: str, tiny: Callable[..., str], ids: Tensor
) -> None:
    model = host(tiny(family), backend)
    mask = torch.ones_like(ids)
    mask[1, 7:] = 0
    padded = ids.masked_fill(mask == 0, 1)
    together = model.capture(padded, mask, model.hooks())
    for row, length in ((0, 12), (1, 7)):
        alone = model.capture(ids[row : row + 1, :length], None, model.hooks())
        for hook in model.hooks():
            torch.testing.assert_close(together[hook][row, :length], alone[hook][0], atol=1e-5, rtol=1e-5)
    loss, alone = model.loss(padded, mask), model.loss(ids[1:, :7])
    torch.testing.assert_close(loss[1, :6], alone[0], atol=1e-5, rtol=1e-5)
    assert (loss[1, 6:] == 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_padding_on_the_left_is_refused(backend: str, tiny: Callable[..., str], ids: Tensor) -> None:
    mask = torch.ones_like(ids)
    mask[0, 0] = 0
    model = host(tiny("llama"), backend)
    for run in (lambda: model.capture(ids, mask, ["hook_embed"]), lambda: model.loss(ids, mask)):
        with pytest.raises(ConfigError, match="padding must be on the right"):
            run()


def test_the_forward_pass_stops_at_the_deepest_hook(tiny: Callable[..., str], ids: Tensor) -> None:
    model = host(tiny("llama"))
    ran: list[str] = []
    watched = {"model.layers.0.mlp", "model.layers.1.self_attn", "model.layers.1.mlp", "model.layers.2", "lm_head"}
    for name, module in model.model.named_modules():
        if name in watched:
            module.register_forward_hook(lambda *_, name=name: ran.append(name))
    model.capture(ids, None, ["blocks.1.hook_resid_mid", "hook_embed"])
    assert ran == ["model.layers.0.mlp", "model.layers.1.self_attn"]


def test_hooks_leave_with_the_capture_even_when_the_model_fails(tiny: Callable[..., str], ids: Tensor) -> None:
    model = host(tiny("llama"))
    model.capture(ids, None, model.hooks())
    assert n_hooks(model.model) == 0
    with pytest.raises(IndexError):
        model.capture(ids + 1000, None, ["blocks.1.hook_resid_post"])
    with pytest.raises(ZeroDivisionError), model.edit("blocks.0.hook_resid_mid", lambda x: x * (1 // 0)):
        model.loss(ids)
    assert n_hooks(model.model) == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_unknown_hook_is_named_with_its_neighbours_and_the_number_of_layers(
    backend: str, tiny: Callable[..., str], ids: Tensor
) -> None:
    model = host(tiny("gpt_neox"), backend)
    for ask in (
        lambda: model.capture(ids, None, ["blocks.1.hook_resid_mid"]),
        lambda: model.width("blocks.1.hook_resid_mid"),
        lambda: model.edit("blocks.1.hook_resid_mid", lambda x: x).__enter__(),
    ):
        with pytest.raises(ConfigError, match=r"blocks\.1\.hook_resid_(pre|post).*3 layers, blocks\.0 to blocks\.2"):
            ask()


@pytest.mark.parametrize("backend", BACKENDS)
def test_activations_are_float32_whatever_the_model_computes_in(
    backend: str, tiny: Callable[..., str], ids: Tensor
) -> None:
    model = load_model(
        ModelConfig.checked({"name": tiny("llama"), "dtype": "bfloat16", "device": "cpu", "backend": backend})
    )
    found = model.capture(ids, None, ["blocks.1.hook_resid_post", "blocks.1.attn.hook_z"])
    assert {x.dtype for x in found.values()} == {torch.float32}
    assert model.logits(ids).dtype == torch.bfloat16


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_loss_is_the_next_tokens_surprise(backend: str, tiny: Callable[..., str], ids: Tensor) -> None:
    model = host(tiny("qwen2"), backend)
    surprise = -model.logits(ids).log_softmax(-1)[:, :-1].gather(-1, ids[:, 1:, None])[..., 0]
    torch.testing.assert_close(model.loss(ids), surprise)
    assert not model.loss(ids).requires_grad
