import torch
from hypothesis import given
from hypothesis import strategies as st

from sparse_rep.attention.layer import LayerAttention
from sparse_rep.attention.masks import BlockMask, LineMask, Mask, StreamedMask, UnionMask, kept_rows


def table(mask: Mask) -> torch.Tensor:
    """The whole mask, causal."""
    rows = torch.stack([mask.rows(head, 0, mask.n) for head in range(mask.n_heads)])
    return rows & torch.ones(mask.n, mask.n).tril().bool()


def pooled(pairs: torch.Tensor, size: int) -> torch.Tensor:
    """Blocks with a kept pair, worked out on the whole table."""
    h, n, _ = pairs.shape
    b = -(-n // size)
    wide = torch.zeros(h, b * size, b * size, dtype=torch.bool)
    wide[:, :n, :n] = pairs
    return wide.view(h, b, size, b, size).any(4).any(2)


def random_mask(kind: str, n: int, seed: int) -> Mask:
    draw = torch.Generator().manual_seed(seed)
    if kind == "lines":
        return LineMask(*(torch.rand(2, n, generator=draw) < 0.1 for _ in range(2)))
    if kind == "union":
        return UnionMask((random_mask("lines", n, seed), random_mask("blocks", n, seed)))
    q_block, k_block = (int(x) for x in torch.randint(1, 9, (2,), generator=draw))
    keep = torch.rand(2, -(-n // q_block), -(-n // k_block), generator=draw) < 0.1
    blocks = BlockMask(keep, n, q_block, k_block)
    return blocks if kind == "blocks" else StreamedMask(2, n, blocks.rows)


KINDS = st.sampled_from(["lines", "blocks", "streamed", "union"])


@given(KINDS, st.integers(1, 40), st.integers(1, 9), st.integers(0, 99))
def test_no_kept_pair_lies_outside_the_blocks_of_its_mask(kind: str, n: int, size: int, seed: int) -> None:
    mask = random_mask(kind, n, seed)
    assert not (pooled(table(mask), size) & ~mask.blocks(size)).any()


@given(KINDS, st.integers(1, 6), st.integers(1, 9), st.integers(0, 99))
def test_below_the_diagonal_every_block_of_a_mask_holds_a_kept_pair(kind: str, b: int, size: int, seed: int) -> None:
    mask = random_mask(kind, b * size, seed)
    below = torch.ones(b, b).tril(-1).bool()
    assert torch.equal(mask.blocks(size) & below, pooled(table(mask), size) & below)


@given(KINDS, st.integers(2, 40), st.integers(0, 99))
def test_rows_are_the_same_however_they_are_asked_for(kind: str, n: int, seed: int) -> None:
    mask = random_mask(kind, n, seed)
    cut = n // 2
    parts = torch.cat([mask.rows(1, 0, cut), mask.rows(1, cut, n)]) if cut else mask.rows(1, 0, n)
    assert torch.equal(parts, mask.rows(1, 0, n))


def test_lines_keep_their_columns_and_distances() -> None:
    mask = LineMask.of([torch.tensor([1])], [torch.tensor([0, 2])], 4)
    assert table(mask)[0].int().tolist() == [[1, 0, 0, 0], [0, 1, 0, 0], [1, 1, 1, 0], [0, 1, 0, 1]]


def test_a_block_mask_repeats_its_blocks_and_is_cut_at_n() -> None:
    keep = torch.tensor([[[1, 0], [0, 1]]]).bool()
    mask = BlockMask(keep, n=3, q_block=2, k_block=2)
    assert mask.rows(0, 0, 3).int().tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]


def test_every_query_keeps_itself_and_nothing_outside_the_layers_window() -> None:
    q = torch.zeros(1, 4, 2)
    nothing = BlockMask(torch.zeros(1, 1, 1).bool(), 4, 4, 4)
    everything = BlockMask(torch.ones(1, 1, 1).bool(), 4, 4, 4)
    layer = LayerAttention(q, q, q, window=2)
    assert torch.equal(kept_rows(nothing, layer, 0, 0, 4), torch.eye(4).bool())
    assert kept_rows(everything, layer, 0, 0, 4).int().tolist() == [
        [1, 0, 0, 0],
        [1, 1, 0, 0],
        [0, 1, 1, 0],
        [0, 0, 1, 1],
    ]
