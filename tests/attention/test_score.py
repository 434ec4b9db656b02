import pytest
import torch

from sparse_rep.attention.dense import dense
from sparse_rep.attention.layer import LayerAttention
from sparse_rep.attention.masks import BlockMask, LineMask, Mask, StreamedMask, UnionMask, kept_rows
from sparse_rep.attention.method import Estimate
from sparse_rep.attention.score import Scores, score

N, H, G, D = 100, 4, 2, 8


def layer(**how: object) -> LayerAttention:
    draw = torch.Generator().manual_seed(3)
    q, k, v = (torch.randn(heads, N, D, generator=draw, dtype=torch.float64) for heads in (H, G, G))
    return LayerAttention(3 * q, k, v, **how)  # pyright: ignore[reportArgumentType]


LAYERS = {
    "causal": layer(),
    "window": layer(window=30),
    "sinks": layer(sinks=torch.linspace(-2, 3, H, dtype=torch.float64)),
    "softcap": layer(softcap=2.0, scale=0.7),
}
DRAW = torch.Generator().manual_seed(0)
BLOCKS = BlockMask(torch.rand(H, 7, 7, generator=DRAW) < 0.3, N, 16, 16)
LINES = LineMask(*(torch.rand(H, N, generator=DRAW) < 0.1 for _ in range(2)))
MASKS: dict[str, Mask] = {
    "blocks": BLOCKS,
    "lines": LINES,
    "stripes": BlockMask(torch.rand(H, 1, N, generator=DRAW) < 0.2, N, 128, 1),
    "pages": BlockMask(torch.rand(H, N, 25, generator=DRAW) < 0.2, N, 1, 4),
    "odd blocks": BlockMask(torch.rand(H, 10, 10, generator=DRAW) < 0.3, N, 10, 10),
    "streamed": StreamedMask(H, N, LINES.rows),
    "union": UnionMask((BLOCKS, LINES)),
}


def whole_matrix(attention: LayerAttention, mask: Mask, first_row: int, block: int | None) -> Scores:
    """Every score by its definition, from the matrix itself."""
    found = []
    own = torch.eye(N, dtype=torch.bool)
    for head in range(H):
        full = attention.probabilities(head, 0, N)
        keys = full / full.sum(-1, keepdim=True)
        kept = kept_rows(mask, attention, head, 0, N)
        if block is not None:
            # The kernel computes blocks whole: the one on the diagonal always is.
            kept = kept | (own.view(N, N).repeat(1, 1) & own)
            at = torch.arange(N) // block
            kept = (kept | (at[:, None] == at)) & attention.visible(0, N)
        v = attention.v[attention.kv_of(head)]
        s = attention.logits(head, 0, N).masked_fill(~kept, float("-inf"))
        if attention.sinks is None:
            sparse = s.softmax(-1) @ v
        else:
            sparse = torch.cat([s, attention.sinks[head].expand(N, 1)], -1).softmax(-1)[:, :-1] @ v
        exact = full @ v
        recall = (keys * kept).sum(-1)
        lost = full.sum(-1) - (full * kept).sum(-1)
        best = keys.sort(-1, descending=True).values.cumsum(-1).gather(-1, kept.sum(-1, keepdim=True) - 1)[:, 0]
        if block is not None:
            mass = torch.stack([keys[:, lo : lo + block].sum(-1) for lo in range(0, N, block)], -1)
            mass = torch.stack([mass[lo : lo + block].mean(0) for lo in range(0, N, block)])
            count = torch.stack([kept[:, lo : lo + block].any(-1) for lo in range(0, N, block)], -1)[::block].sum(-1)
            top = mass.sort(-1, descending=True).values.cumsum(-1).gather(-1, count[:, None] - 1)[:, 0]
            best = top.repeat_interleave(block)[:N]
        rows = slice(first_row, None)
        moved = (sparse - exact).norm(dim=-1)
        found.append(
            {
                "density": kept[rows].sum() / attention.visible(first_row, N).sum(),
                "recall_mean": recall[rows].mean(),
                "recall_p5": recall[rows].quantile(0.05),
                "rows_below_90": (recall[rows] < 0.9).double().mean(),
                "recall_rest": (keys * kept)[rows, 4:].sum() / keys[rows, 4:].sum(),
                "oracle": best[rows].mean(),
                "out_err": (sparse - exact)[rows].norm() / exact[rows].norm(),
                "bound": (moved / (2 * lost * v.norm(dim=-1).max()).clamp(min=1e-12))[rows][lost[rows] > 1e-9].amax(),
            }
        )
    columns = {name: torch.stack([f[name] for f in found]).double() for name in found[0]}
    return Scores(**columns, block_density=torch.zeros(H), granularity="token")


@pytest.mark.parametrize("first_row", [0, 60])
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("kind", LAYERS)
def test_every_score_is_what_the_whole_matrix_gives(kind: str, mask: str, first_row: int) -> None:
    attention, truth = LAYERS[kind], dense(LAYERS[kind])
    (got,) = score(truth, [Estimate(MASKS[mask], first_row=first_row)])
    block = 16 if mask == "blocks" and first_row == 0 else None
    block = 10 if mask == "odd blocks" and first_row == 0 else block
    assert got.granularity == ("token" if block is None else "block")
    want = whole_matrix(attention, MASKS[mask], first_row, block)
    for name in ("density", "recall_mean", "recall_p5", "rows_below_90", "recall_rest", "oracle", "out_err", "bound"):
        tolerance = 1e-3 if name == "bound" else 2e-6  # the bound leaves out what rounding alone may do
        torch.testing.assert_close(
            getattr(got, name), getattr(want, name), atol=tolerance, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )
