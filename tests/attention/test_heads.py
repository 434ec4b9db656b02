import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparse_rep.attention.dense import SAMPLE, dense, sample
from sparse_rep.attention.heads import HeadProfile, earlier_occurrences, profile_heads
from sparse_rep.attention.layer import LayerAttention
from sparse_rep.attention.patterns import PATTERNS, classify
from sparse_rep.attention.planted import planted_layer
from sparse_rep.attention.tables import head_codes


def profile(layer: LayerAttention, ids: torch.Tensor | None = None) -> HeadProfile:
    ids = torch.arange(layer.n) if ids is None else ids
    return profile_heads(dense(layer), ids, torch.eye(layer.v.shape[-1])[:, None].expand(-1, layer.n_heads, -1), 0.1)


def classed(found: HeadProfile) -> tuple[str, float, float]:
    columns = found.columns()
    names, recall, margin = classify(torch.stack([columns[f"recall_{name}"] for name in PATTERNS]))
    return names[0], float(recall[0]), float(margin[0])


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("relative", "diagonals"),
        ("grid", "diagonals"),
        ("local", "local"),
        ("sink", "sink_local"),
        ("needle", "columns"),
        ("diffuse", "diffuse"),
    ],
)
def test_planted_heads_are_classed_as_what_they_are(kind: str, expected: str) -> None:
    for seed in range(3):
        name, recall, margin = classed(profile(planted_layer([kind], seed=seed)))
        assert name == expected
        assert (recall > 0.85) == (expected != "diffuse")
        if kind in ("relative", "grid", "needle"):
            assert margin > 0.3


def test_planted_heads_have_the_figures_that_they_were_made_for() -> None:
    found = {kind: profile(planted_layer([kind])) for kind in ("sink", "local", "needle", "diffuse", "relative")}
    assert found["sink"].sink > 0.9
    assert found["local"].local > 0.99
    assert found["needle"].keys90 < 6
    assert found["diffuse"].keys90 > 400
    # Local mass of the planted relative head as published with its recipe: .538 within 64 keys.
    assert abs(float(found["relative"].local[0]) - 0.538) < 0.005
    assert found["diffuse"].entropy > 5.5 > 1.0 > found["sink"].entropy


@pytest.mark.parametrize("how", [{}, {"window": 9}, {"softcap": 1.5}, {"sinks": torch.tensor([0.5, 2.0])}], ids=str)
def test_every_figure_is_what_the_whole_matrix_gives(how: dict[str, object]) -> None:
    draw = torch.Generator().manual_seed(1)
    n, d = 40, 8
    q, k, v = (torch.randn(heads, n, d, generator=draw, dtype=torch.float64) for heads in (2, 1, 1))
    layer = LayerAttention(2 * q, k, v, **how)  # pyright: ignore[reportArgumentType]
    ids = torch.randint(0, 5, (n,), generator=draw)
    w_o = torch.randn(12, 2, d, generator=draw, dtype=torch.float64)
    got = profile_heads(dense(layer), ids, w_o, 0.1)
    full = torch.stack([layer.probabilities(head, 0, n) for head in range(2)])
    p = full / full.sum(-1, keepdim=True)
    back = torch.arange(n)[:, None] - torch.arange(n)
    follows = torch.zeros(n, n, dtype=torch.bool)
    for i in range(n):
        earlier = [j for j in range(i) if ids[j] == ids[i]]
        follows[i, [j + 1 for j in earlier[-8:]]] = True
    best = p.sort(-1, descending=True).values.cumsum(-1)
    written = torch.einsum("hnd,chd->hnc", full @ v, w_o).norm(dim=-1)
    want = {
        "sink": p[..., :4].sum(-1).mean(-1),
        "learned_sink": 1 - full.sum(-1).mean(-1),
        "local": (p * (back < 64)).sum(-1).mean(-1),
        "previous": (p * (back == 1)).sum(-1).mean(-1),
        "induction": (p * follows).sum(-1).mean(-1),
        "distance": (p * back).sum(-1).mean(-1),
        "entropy": torch.special.entr(p).sum(-1).mean(-1),
        "keys95": ((best < 0.95).sum(-1) + 1).double().mean(-1),
        "write_norm": written.mean(-1),
        "write_share": written.square().mean(-1) / written.square().mean(-1).sum(),
    }
    for name, value in want.items():
        torch.testing.assert_close(getattr(got, name), value, atol=1e-6, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    torch.testing.assert_close(got.distances.sum(-1), torch.ones(2, dtype=torch.float64))
    torch.testing.assert_close(got.distances[:, 2], (p * ((back >= 2) & (back < 4))).sum(-1).mean(-1))


def test_a_head_that_copies_what_followed_is_an_induction_head_and_chance_is_told() -> None:
    period = 16
    ids = torch.randperm(64)[:period].repeat(4)
    n = len(ids)
    codes = torch.nn.functional.one_hot(ids, 64).float()
    before = torch.roll(codes, 1, 0)
    before[0] = 0
    layer = LayerAttention(12 * codes[None], 12 * before[None], torch.randn(1, n, 8))
    found = profile(layer, ids)
    assert found.induction > 0.7 > 10 * found.induction_chance
    shuffled = profile(layer, ids[torch.randperm(n, generator=torch.Generator().manual_seed(0))])
    assert shuffled.induction < 0.2


@given(st.lists(st.integers(0, 4), min_size=1, max_size=30), st.integers(1, 4))
def test_earlier_occurrences_are_the_latest_ones(ids: list[int], count: int) -> None:
    found = earlier_occurrences(torch.tensor(ids), count).tolist()
    for i, row in enumerate(found):
        earlier = [j for j in reversed(range(i)) if ids[j] == ids[i]][:count]
        assert row == earlier + [-1] * (count - len(earlier))


@given(st.integers(1, 300_000))
def test_a_sample_of_queries_is_all_of_a_short_text_and_reaches_the_end_of_a_long_one(n: int) -> None:
    queries = sample(n)
    assert queries.unique().numel() == queries.numel() <= SAMPLE
    assert queries[0] == 0
    assert queries[-1] == n - 1
    if n <= SAMPLE:
        assert queries.tolist() == list(range(n))


def test_heads_are_sparse_codes_ranked_by_what_they_write() -> None:
    codes = head_codes(torch.tensor([[1.0, 5.0], [3.0, 0.0], [2.0, 6.0]]), k=2)
    assert codes.n_units == 3
    assert codes.indices.tolist() == [[1, 2], [2, 0]]
    assert codes.dense().tolist() == [[0.0, 3.0, 2.0], [5.0, 0.0, 6.0]]


@given(st.lists(st.floats(0, 1), min_size=len(PATTERNS), max_size=len(PATTERNS)))
def test_a_class_is_within_a_tie_of_the_best_pattern(recalls: list[float]) -> None:
    names, recall, margin = classify(torch.tensor(recalls, dtype=torch.float64)[:, None])
    assert recall[0] >= max(recalls) - 0.01
    assert (names[0] == "diffuse") == (recall[0] < 0.5)
    assert margin[0] >= -0.01
