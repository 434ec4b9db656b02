"""Heads with a known pattern: the method made for it must find it, and none may find what is not there."""

from statistics import median

import pytest
import torch

from sparse_rep.attention.layer import LayerAttention
from sparse_rep.attention.method import Method
from sparse_rep.attention.methods.registry import build_method
from sparse_rep.attention.planted import KINDS, needle_positions, planted_layer

HEADS = tuple(KINDS)
PREFILL = {
    "a_shape": {"sink": 4, "window": 60},
    "anchor": {"block": 16},
    "block_sparse": {"block": 16},
    "dhsa": {"block": 16},
    "flexprefill": {"block": 16},
    "hyper": {},
    "local_window": {},
    "minference": {},
    "proxyattn": {"block": 16, "stride": 4},
    "s2": {"block": 16},
    "vertical_slash": {},
}
LINES = {"verticals": 16, "slashes": 64, "first": 0, "nearest": 0, "last": 256}


def by_head(method: Method, layer: LayerAttention, budget: float | None, scores) -> dict:
    return dict(zip(HEADS, scores(method.estimate(layer, budget), layer), strict=True))


def test_vertical_slash_finds_every_pattern_made_of_lines_and_nothing_in_a_diffuse_head(scores) -> None:
    """Medians of 5 seeds: recall at least 0.9 at density at most 0.10, below 0.3 where there is nothing."""
    found = [
        by_head(build_method("vertical_slash", LINES), planted_layer(seed=seed), None, scores) for seed in range(5)
    ]
    for kind in ("relative", "grid", "sink", "needle", "local"):
        assert median(heads[kind].recall for heads in found) >= 0.9, kind
        assert median(heads[kind].density for heads in found) <= 0.10, kind
    assert median(heads["diffuse"].recall for heads in found) < 0.3
    for heads in found:
        for head in heads.values():
            assert head.recall <= head.oracle + 1e-9
            assert head.bound <= 1


@pytest.fixture(scope="module")
def layer() -> LayerAttention:
    return planted_layer(n=512)


def test_the_bound_holds_and_no_method_beats_the_oracle_on_any_planted_head(layer: LayerAttention, scores) -> None:
    for name, settings in PREFILL.items():
        for kind, head in by_head(build_method(name, settings), layer, 0.15, scores).items():
            assert head.recall <= head.oracle + 1e-9, (name, kind)
            assert head.bound <= 1, (name, kind)


@pytest.mark.parametrize(
    ("kind", "made_for_it", "not_made_for_it"),
    [
        ("sink", "a_shape", "local_window"),
        ("sink", "vertical_slash", "s2"),
        ("local", "local_window", "s2"),
        ("grid", "vertical_slash", "a_shape"),
        ("grid", "vertical_slash", "block_sparse"),
        ("relative", "vertical_slash", "block_sparse"),
        ("needle", "vertical_slash", "a_shape"),
        ("needle", "anchor", "block_sparse"),
        ("needle", "anchor", "local_window"),
    ],
)
def test_a_head_prefers_the_method_made_for_it(
    kind: str, made_for_it: str, not_made_for_it: str, layer, scores
) -> None:
    good, other = (
        by_head(build_method(name, PREFILL[name]), layer, 0.15, scores)[kind] for name in (made_for_it, not_made_for_it)
    )
    assert good.recall > 0.8
    assert good.recall > other.recall + 0.02


def test_keys_that_a_prompt_ends_on_are_found_by_the_methods_that_prune_caches(layer: LayerAttention, scores) -> None:
    needle = HEADS.index("needle")
    for name, settings in (("snapkv", {"pool": 1}), ("ada_snapkv", {"pool": 1, "floor": 0.5}), ("quest", {})):
        estimate = build_method(name, {"answer": 32} | settings).estimate(layer, 0.2)
        assert scores(estimate, layer)[needle].recall > 0.95
        row = estimate.mask.rows(needle, 511, 512)[0]
        assert row[needle_positions(512)].all()


def test_no_method_finds_more_than_chance_in_a_diffuse_head(scores) -> None:
    """The null, on 8 heads: as many keys a row by any rule hold what that many keys hold on average, to within noise.

    Noise is how far even the oracle gets: logits of a diffuse head still differ by a tenth.
    """
    layer = planted_layer(("diffuse",) * 8, n=256, seed=3)
    fine = {name: settings | ({"block": 8} if "block" in settings else {}) for name, settings in PREFILL.items()}
    gains = {}
    for name, settings in (fine | {"random_blocks": {"block": 8}, "oracle_tokens": {}}).items():
        heads = scores(build_method(name, settings).estimate(layer, 0.2), layer)
        gains[name] = sum(head.recall - head.chance for head in heads) / 8
    assert 0.01 < gains.pop("oracle_tokens") < 0.03
    assert abs(gains["random_blocks"]) < 0.001
    assert max(gains.values()) < 0.01, gains


def test_what_there_is_to_find_is_found_far_above_chance(layer: LayerAttention, scores) -> None:
    heads = by_head(build_method("vertical_slash"), layer, 0.15, scores)
    for kind in ("relative", "grid", "sink", "needle", "local"):
        assert heads[kind].recall > heads[kind].chance + 0.5, kind


def test_a_planted_layer_is_the_same_for_the_same_seed_only() -> None:
    a, b, c = (planted_layer(n=64, seed=seed).q for seed in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
