from collections.abc import Callable

import pytest
import torch
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from sparse_rep.attention.dense import dense
from sparse_rep.attention.effects import effects
from sparse_rep.attention.layer import LayerAttention
from sparse_rep.attention.masks import BlockMask, LineMask, Mask, StreamedMask, kept_rows
from sparse_rep.attention.method import Estimate
from sparse_rep.attention.methods.registry import build_method
from sparse_rep.attention.sparse import SparseAttention, sparse_output
from sparse_rep.config import ModelConfig
from sparse_rep.errors import ConfigError
from sparse_rep.hosting.load import load_model
from sparse_rep.hosting.model import HostedModel
from sparse_rep.hosting.views import View

N = 80
DRAW = torch.Generator().manual_seed(0)
LINES = LineMask(*(torch.rand(2, N, generator=DRAW) < 0.1 for _ in range(2)))
KEEP = (torch.rand(2, 5, 5, generator=DRAW) < 0.3) | torch.eye(5).bool()
MASKS: dict[str, Mask] = {
    "blocks": BlockMask(KEEP, N, 16, 16),
    "lines": LINES,
    "streamed": StreamedMask(2, N, LINES.rows),
}


@pytest.fixture
def model(tiny: Callable[..., str]) -> HostedModel:
    return load_model(ModelConfig(name=tiny("llama"), device="cpu"))


@pytest.mark.parametrize("sinks", [None, torch.tensor([0.3, 1.0])])
@pytest.mark.parametrize("kind", MASKS)
def test_a_sparse_output_is_softmax_over_what_is_kept(kind: str, sinks: torch.Tensor | None) -> None:
    q, k, v = (torch.randn(heads, N, 8, generator=torch.Generator().manual_seed(2)) for heads in (2, 1, 1))
    layer = LayerAttention(2 * q, k, v, sinks=sinks)
    out = sparse_output(dense(layer), Estimate(MASKS[kind], first_row=0))
    late = sparse_output(dense(layer), Estimate(MASKS[kind], first_row=50))
    for head in range(2):
        s = layer.logits(head, 0, N).masked_fill(~kept_rows(MASKS[kind], layer, head, 0, N), float("-inf"))
        sink = torch.tensor(float("-inf")) if sinks is None else sinks[head]
        want = torch.cat([s, sink.expand(N, 1)], -1).softmax(-1)[:, :-1] @ v[0]
        torch.testing.assert_close(out[head], want, atol=1e-5, rtol=1e-4)
    assert torch.equal(late[:, :50], dense(layer).out[:, :50])
    torch.testing.assert_close(late[:, 50:], out[:, 50:])


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")  # which CI's CPU has no compiler for
def test_blocks_are_those_of_flex_attention() -> None:
    q, k, v = (torch.randn(heads, N, 16, generator=torch.Generator().manual_seed(3)) for heads in (2, 1, 1))

    # Uncompiled, flex_attention heeds the predicate alone, so the predicate reads the table of blocks.
    def kept(b: torch.Tensor, h: torch.Tensor, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
        return (i >= j) & KEEP[h, i // 16, j // 16]

    blocks = create_block_mask(kept, 1, 2, N, N, device="cpu", BLOCK_SIZE=16)
    want = flex_attention(q[None], k[None], v[None], block_mask=blocks, enable_gqa=True)
    got = sparse_output(dense(LayerAttention(q, k, v)), Estimate(MASKS["blocks"]))
    torch.testing.assert_close(got, want[0], atol=1e-5, rtol=1e-5)  # pyright: ignore[reportIndexIssue]


def test_only_the_chosen_heads_change_and_the_model_is_left_as_it_was(model: HostedModel, ids: torch.Tensor) -> None:
    hook = "blocks.1.attn.hook_z"
    before = model.capture(ids, None, [hook])[hook].unflatten(-1, (4, 8))
    logits = model.logits(ids)
    view = View(model, (SparseAttention(build_method("local_window"), 0.2, {1: [2]}),))
    with torch.no_grad(), view.applied():
        during = model.capture(ids, None, [hook])[hook].unflatten(-1, (4, 8))
    changed = (during - before).abs().amax((0, 1, 3)) > 1e-4
    assert changed.tolist() == [False, False, True, False]
    assert torch.equal(model.logits(ids), logits)
    assert view.describe()[0]["heads"] == {"1": [2]}


def test_a_budget_of_everything_changes_nothing(model: HostedModel, ids: torch.Tensor) -> None:
    logits = model.logits(ids)
    for name in ("block_sparse", "vertical_slash", "quest"):
        with torch.no_grad(), SparseAttention(build_method(name), 1.0).apply(model):
            assert (model.logits(ids) - logits).abs().max() < 1e-4


def test_effects_are_zero_for_everything_kept_and_grow_as_less_is(model: HostedModel, ids: torch.Tensor) -> None:
    method = build_method("local_window")
    found = effects(model, [ids[:1]], [method], [1.0, 0.5, 0.1], [0, 1, 2], "model")
    assert [e.budget for e in found] == [1.0, 0.5, 0.1]
    assert abs(found[0].kl) < 1e-6
    assert found[0].kl < found[1].kl < found[2].kl
    assert found[0].loss == pytest.approx(found[0].loss_dense, abs=1e-5)
    assert float(model.loss(ids[:1]).mean()) == pytest.approx(found[0].loss_dense, rel=1e-5)


def test_effects_of_single_heads_name_them(model: HostedModel, ids: torch.Tensor) -> None:
    found = effects(model, [ids[:1]], [build_method("local_window")], [0.2], [0, 2], "heads")
    assert [(e.layer, e.head) for e in found] == [(layer, head) for layer in (0, 2) for head in range(4)]
    assert all(e.kl >= 0 for e in found)


def test_a_method_that_a_layer_cannot_take_is_refused_with_its_reason(model: HostedModel, ids: torch.Tensor) -> None:
    view = SparseAttention(build_method("sparsed"), 0.1)
    refused = pytest.raises(ConfigError, match="sparsed cannot run on layer 0: wants the denoising steps")
    with refused, torch.no_grad(), view.apply(model):
        model.logits(ids)
