"""Routing is what the router really used, on every family; the oracle is the experts module itself."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from mixtures import MIXTURES, SPARSE_LAYERS, UNKNOWN, save_mixture
from torch import Tensor, nn

from sparse_rep.codes import EMPTY
from sparse_rep.config import ModelConfig
from sparse_rep.errors import ConfigError
from sparse_rep.hosting.load import load_model
from sparse_rep.hosting.model import HostedModel
from sparse_rep.routing.capture import RouterHooks, routing_activations
from sparse_rep.routing.families import find_routers

FAMILIES = list(MIXTURES)


@pytest.fixture(scope="session")
def hosted(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], HostedModel]:
    made: dict[str, HostedModel] = {}

    def make(family: str) -> HostedModel:
        if family not in made:
            folder = save_mixture(tmp_path_factory.mktemp(family), family)
            made[family] = load_model(ModelConfig(name=str(folder), device="cpu"))
        return made[family]

    return make


@pytest.fixture
def ids() -> Tensor:
    return torch.randint(0, 300, (2, 11), generator=torch.Generator().manual_seed(3))


def mixture_block(model: HostedModel, layer: int) -> tuple[str, nn.Module]:
    """The module of a layer that holds its experts."""
    for name, module in model.model.named_modules():
        if f"layers.{layer}." in name and hasattr(module, "experts"):
            return name, module
    raise AssertionError


def given_to_experts(model: HostedModel, ids: Tensor, layer: int) -> tuple[list[Any], Tensor]:
    """Tensors that the experts module of a layer received, and what it gave."""
    seen: dict[str, Any] = {}

    def keep(_module: Any, args: Any, kwargs: Any, output: Any) -> None:
        seen["args"], seen["out"] = [*args, *kwargs.values()], output

    handle = mixture_block(model, layer)[1].experts.register_forward_hook(keep, with_kwargs=True)  # pyright: ignore
    model.logits(ids)
    handle.remove()
    return seen["args"], seen["out"]


@pytest.mark.parametrize("family", [*FAMILIES, *UNKNOWN])
def test_ids_and_weights_are_those_that_the_experts_were_given(
    family: str, hosted: Callable[[str], HostedModel], ids: Tensor
) -> None:
    model = hosted(family)
    found = routing_activations(model, ids)
    layers = SPARSE_LAYERS.get(family, [0, 1, 2])
    assert {int(name.split(".")[1]) for name in found} == set(layers)
    for layer in layers:
        args, _ = given_to_experts(model, ids, layer)
        weights, indices = (found[f"blocks.{layer}.mlp.hook_expert_{n}"].flatten(0, 1) for n in ("weights", "indices"))
        if family == "llama4_text":  # its experts are given every token, multiplied by the score
            E = 8
            scaled = args[0].view(E, len(indices), -1)
            used = scaled.abs().sum(-1).T > 0
            assert (used.sum(-1) == 2).all()
            assert torch.equal(torch.zeros_like(used).scatter(-1, indices, True), used)
            continue
        given_ids = next(t for t in args if torch.is_tensor(t) and not t.is_floating_point())
        given_weights = next(
            t for t in args if torch.is_tensor(t) and t.shape == given_ids.shape and t.is_floating_point()
        )
        order, given_order = indices.argsort(-1), given_ids.argsort(-1)
        assert torch.equal(indices.gather(-1, order), given_ids.gather(-1, given_order))
        assert torch.equal(weights.gather(-1, order), given_weights.gather(-1, given_order))


@pytest.mark.parametrize("family", ["mixtral", "olmoe", "deepseek_v3", "phimoe"])
def test_the_mixtures_output_follows_from_captured_ids_and_weights(
    family: str, hosted: Callable[[str], HostedModel], ids: Tensor
) -> None:
    """Recomputed expert by expert in the open, from the weights of the experts and nothing else of theirs."""
    model = hosted(family)
    layer = SPARSE_LAYERS.get(family, [0])[0]
    args, out = given_to_experts(model, ids, layer)
    found = routing_activations(model, ids)
    weights, indices = (found[f"blocks.{layer}.mlp.hook_expert_{n}"].flatten(0, 1) for n in ("weights", "indices"))
    experts: Any = mixture_block(model, layer)[1].experts
    x = args[0]
    again = torch.zeros_like(x)
    for token in range(len(x)):
        for weight, expert in zip(weights[token], indices[token], strict=True):
            gate, up = (experts.gate_up_proj[expert] @ x[token]).chunk(2)
            again[token] += weight * (experts.down_proj[expert] @ (experts.act_fn(gate) * up))
    torch.testing.assert_close(again, out.view_as(again), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_rule_on_record_gives_the_weights(family: str, hosted: Callable[[str], HostedModel], ids: Tensor) -> None:
    """Score, renormalisation and scale as they are stored explain the weights from the logits and ids alone."""
    model = hosted(family)
    found = routing_activations(model, ids)
    for router in find_routers(model.model):
        logits, weights, indices = (
            found[f"blocks.{router.layer}.mlp.hook_{n}"] for n in ("router_scores", "expert_weights", "expert_indices")
        )
        chosen = logits.gather(-1, indices)
        if router.score == "softmax":
            expected = logits.softmax(-1).gather(-1, indices)
        elif router.score == "topk_softmax":
            expected = chosen.softmax(-1)
        elif router.score == "sigmoid":
            expected = chosen.sigmoid()
        else:
            assert router.score == "sparsemixer"
            assert ((weights > 0.5) & (weights <= 1)).all()  # a softmax over near-ties of the pick, each pick its own
            continue
        if router.renormalised:
            expected = expected / expected.sum(-1, keepdim=True)
        torch.testing.assert_close(weights, expected * router.scale, atol=1e-6, rtol=1e-5)


def test_choices_of_deepseek_v3_are_right_where_the_largest_logits_are_wrong(
    hosted: Callable[[str], HostedModel], ids: Tensor
) -> None:
    found = routing_activations(hosted("deepseek_v3"), ids)
    wrong = 0
    for layer in (1, 2):
        logits, indices = (found[f"blocks.{layer}.mlp.hook_{n}"] for n in ("router_scores", "expert_indices"))
        largest = logits.topk(3, -1).indices.sort(-1).values
        wrong += int((largest != indices.sort(-1).values).any(-1).sum())
    assert wrong > ids.numel() / 2  # of 2 x ids.numel() choices


@pytest.mark.parametrize("family", FAMILIES)
def test_margin_is_what_the_next_expert_lacked(family: str, hosted: Callable[[str], HostedModel], ids: Tensor) -> None:
    """Giving the best expert that was not chosen its margin and a little more brings it in; a little less does not."""
    model = hosted(family)
    hooks = RouterHooks(model)
    with hooks.attached():
        model.capture(ids, None, ())
        (routing,) = hooks.read()
    assert (routing.margin >= 0).all()
    compared = hooks._compared(routing.routers, routing.logits)
    kept = compared.gather(-1, routing.indices).amin(-1)
    others = compared.scatter(-1, routing.indices, -torch.inf).amax(-1)
    torch.testing.assert_close(kept - others, routing.margin, atol=1e-6, rtol=0)
    assert (compared.gather(-1, routing.indices).diff(dim=-1) <= 0).all()  # first choice first


@pytest.mark.parametrize("family", FAMILIES)
def test_loss_with_capture_is_the_loss_without_bit_for_bit(
    family: str, hosted: Callable[[str], HostedModel], ids: Tensor
) -> None:
    model = hosted(family)
    before = model.loss(ids)
    hooks = RouterHooks(model)
    with hooks.attached():
        during = model.loss(ids)
        assert hooks.read()
    assert torch.equal(before, during)
    assert torch.equal(before, model.loss(ids))
    assert not any(m._forward_hooks for m in model.model.modules())


def test_codes_are_the_experts_as_units(hosted: Callable[[str], HostedModel], ids: Tensor) -> None:
    hooks = RouterHooks(hosted("olmoe"))
    with hooks.attached():
        hosted("olmoe").capture(ids, None, ())
        (routing,) = hooks.read(torch.tensor([0, 5, 20]))
    codes = routing.codes(1)
    assert (codes.n, codes.n_units) == (3, 8)
    assert (codes.l0() == 3).all()
    torch.testing.assert_close(codes.dense().sum(-1), codes.values.sum(-1))


@pytest.mark.parametrize("family", ["deepseek_v2", "deepseek_v3", "granitemoe", "llama4_text", "phimoe", *UNKNOWN])
def test_residual_stream_of_the_mixtures_is_transformers_own(
    family: str, hosted: Callable[[str], HostedModel], ids: Tensor
) -> None:
    model = hosted(family)
    hooks = [f"blocks.{layer}.hook_resid_pre" for layer in range(3)]
    found = model.capture(ids, None, hooks)
    states = model.model(ids, output_hidden_states=True).hidden_states
    for hook, state in zip(hooks, states, strict=False):
        torch.testing.assert_close(found[hook], state)
    if family not in UNKNOWN:
        middle = model.capture(ids, None, ["blocks.1.hook_resid_mid", "blocks.1.hook_resid_post"])
        assert not torch.equal(*middle.values())


@pytest.mark.parametrize("family", UNKNOWN)
def test_routers_of_a_family_without_a_rule_are_found_by_their_class(
    family: str, hosted: Callable[[str], HostedModel]
) -> None:
    model = hosted(family)
    routers = find_routers(model.model)
    assert [router.layer for router in routers] == SPARSE_LAYERS.get(family, [0, 1, 2])
    assert {(router.score, router.renormalised) for router in routers} == {("unknown", None)}
    assert set(model.hooks()) == {
        "hook_embed",
        *(f"blocks.{i}.hook_resid_{at}" for i in range(3) for at in ("pre", "post")),
    }


# --- what cannot be captured says so


def test_a_dense_model_names_the_families_known() -> None:
    import transformers

    config = transformers.LlamaConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=20
    )
    with pytest.raises(ConfigError, match=r"'llama' model has no router: it is dense.*mixtral.*deepseek_v3"):
        find_routers(transformers.LlamaForCausalLM(config))


def test_a_block_computed_by_a_hub_kernel_is_noticed(tmp_path_factory: pytest.TempPathFactory, ids: Tensor) -> None:
    """`kernels` puts another forward in place of the block's own; the router's is then never called."""
    model = load_model(ModelConfig(name=str(save_mixture(tmp_path_factory.mktemp("k"), "gpt_oss")), device="cpu"))
    block: Any = mixture_block(model, 1)[1]
    block.forward = lambda x: (x, None)
    with pytest.raises(ConfigError, match=r"model.layers.1.mlp.router never ran \(1 of 3 routers\).*use_kernels=False"):
        RouterHooks(model)


def test_a_router_that_cannot_be_read_is_named_with_its_shapes(tmp_path: Any) -> None:
    model = load_model(ModelConfig(name=str(save_mixture(tmp_path, "mixtral")), device="cpu"))
    layer = model.model.model.layers[0]
    # Counts of tokens an expert are no routing.
    layer.mlp.gate.forward = lambda x: (
        torch.zeros(len(x), 5),
        torch.zeros(len(x), 2),
        torch.zeros(len(x), 2, dtype=torch.long),
    )
    with pytest.raises(
        ConfigError, match=r"cannot read the router model.layers.0.mlp.gate.*float32 \(7, 5\).*--routers"
    ):
        RouterHooks(model)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (1, 2, 0)])
def test_outputs_are_told_apart_in_any_order(order: tuple[int, ...], tmp_path: Any, ids: Tensor) -> None:
    from sparse_rep.routing.capture_layout import read_layout

    model = load_model(ModelConfig(name=str(save_mixture(tmp_path, "mixtral")), device="cpu"))
    router = find_routers(model.model)[0]
    out = router.module(model.model)(torch.randn(6, 32))
    logits, weights, indices = read_layout(router, [out[i] for i in order]).read([out[i] for i in order], router.k)
    assert torch.equal(logits, out[0])
    assert torch.equal(weights, out[1])
    assert torch.equal(indices, out[2])


def test_a_mask_of_choices_tells_which_tokens_had_no_room() -> None:
    """Switch Transformers return a mask over experts in which a token over an expert's capacity has no 1."""
    from sparse_rep.routing.capture_layout import read_layout
    from sparse_rep.routing.families import Router

    logits = torch.tensor([[2.0, 0, 1], [3, 1, 0], [0, 5, 0], [9, 0, 0]])
    mask = torch.tensor([[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 0]])  # expert 0 holds two tokens
    router = Router(0, "mlp.router", n_experts=3, k=1, score="softmax", renormalised=False)
    out = (mask, logits.softmax(-1).amax(-1, keepdim=True), logits)
    _, weights, indices = read_layout(router, out).read(out, 1)
    assert indices.flatten().tolist() == [0, 0, 1, EMPTY]
    assert weights is not None
    assert weights[3].item() == 0


def test_a_mapping_by_hand_finds_routers_of_an_unknown_family(tmp_path: Any, ids: Tensor) -> None:
    model = load_model(ModelConfig(name=str(save_mixture(tmp_path, "mixtral")), device="cpu"))
    known = routing_activations(model, ids)
    by_hand = routing_activations(model, ids, mapping="model.layers.*.mlp.gate:top_k=2")
    assert known.keys() == by_hand.keys()
    assert all(torch.equal(known[name], by_hand[name]) for name in known)
    with pytest.raises(ConfigError, match="no module is named"):
        find_routers(model.model, "model.blocks.*.gate:top_k=2")
    with pytest.raises(ConfigError, match="cannot read --routers"):
        find_routers(model.model, "model.layers.0.mlp.gate")


def test_more_experts_than_ids_can_tell_apart_are_refused() -> None:
    class WideRouter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.empty(70_000, 1))

    model: Any = nn.ModuleDict({"layers": nn.ModuleList([nn.ModuleDict({"router": WideRouter()})])})
    model.config = type(
        "Config", (), {"get_text_config": lambda self: self, "model_type": "wide", "num_experts_per_tok": 1}
    )()
    with pytest.raises(ConfigError, match="70,000 experts; at most 65,534"):
        find_routers(model)
