"""What holds of every method: at any budget, in any layer it applies to."""

import pytest
import torch

from sparse_rep.attention.layer import LayerAttention
from sparse_rep.attention.method import Method
from sparse_rep.attention.methods.moa import MoA, MoAConfig
from sparse_rep.attention.methods.registry import build_method, method_classes
from sparse_rep.errors import ConfigError

FINE = {
    "block_sparse": {"block": 8},
    "anchor": {"block": 8},
    "flexprefill": {"block": 8},
    "proxyattn": {"block": 8, "stride": 4},
    "oracle_blocks": {"block": 8},
    "random_blocks": {"block": 8},
    "s2": {"block": 8},
    "dhsa": {"block": 8},
    "sparsed": {"block": 8, "steps": 10},
    "quest": {"page": 4},
    "hyper": {"block": 8, "samples": 0},
}
"""Blocks that a text of 201 tokens has some of."""
LABELS = (torch.arange(201) % 40 >= 25).long()
UNEVEN = ((20.0, 0.1), (5.0, 0.3), (60.0, 0.0), (0.0, 0.8))

LAYERS = {
    "plain": {},
    "window": {"window": 70},
    "sinks": {"sinks": torch.tensor([0.0, 1.0, -2.0, 3.0])},
    "softcap": {"softcap": 3.0},
    "modalities": {"labels": LABELS},
    "diffusion": {"causal": False, "step": 7},
}
APPLIES = {
    "sparsed": {"diffusion"},
    "mminference": {"modalities"},
    "hyper": set(LAYERS) - {"diffusion", "window", "sinks"},
    **{name: set(LAYERS) for name in ("oracle_blocks", "oracle_tokens", "random_blocks")},
}
LOGITS_OF_THEIR_OWN = {"anchor", "hyper", "proxyattn"}
"""Methods that make logits themselves, and so must cap them themselves."""
CASES = [
    (name, rule)
    for name in method_classes()
    for rule in LAYERS
    if rule in APPLIES.get(name, LAYERS.keys() - {"diffusion", "modalities"})
    and (rule != "softcap" or name in LOGITS_OF_THEIR_OWN)
]


def method_of(name: str) -> Method:
    if name == "moa":
        return MoA(MoAConfig(block=8, spans=(UNEVEN,)))
    return build_method(name, FINE.get(name))


@pytest.mark.parametrize(("name", "rule"), CASES)
def test_the_whole_budget_is_the_dense_layer(name: str, rule: str, layer_of, scores) -> None:
    layer = layer_of(**LAYERS[rule])
    for head in scores(method_of(name).estimate(layer, 1.0), layer):
        assert head.density == 1
        assert head.recall == pytest.approx(1, abs=1e-6)
        # A sampled or merged output is the method's own and carries no sink; the mask's is exact.
        assert head.error <= 1e-5


@pytest.mark.parametrize(("name", "rule"), CASES)
def test_a_larger_budget_keeps_more_attention_and_never_beats_the_oracle(
    name: str, rule: str, layer_of, scores
) -> None:
    layer = layer_of(**LAYERS[rule])
    method = method_of(name)
    before = None
    # A tenth of a sliding window is less than any blocks of 64 keep, so that minference's candidates are not equally dense there.
    for budget in (0.3, 0.6) if name == "minference" else (0.1, 0.3, 0.6):
        heads = scores(method.estimate(layer, budget), layer)
        assert all(head.recall <= head.oracle + 1e-9 for head in heads)
        assert all(head.bound <= 1 for head in heads)
        # A new draw, another stride or another candidate need not contain the last; on average more is more.
        recall = sum(head.recall for head in heads)
        assert before is None or recall >= before - 1e-9
        before = recall


@pytest.mark.parametrize("name", sorted(set(method_classes()) - {"moa", "ada_snapkv"}))
@pytest.mark.parametrize("budget", [0.3, 0.5])
def test_every_head_keeps_about_its_budget(name: str, budget: float, layer_of, scores) -> None:
    rule = {"sparsed": "diffusion", "mminference": "modalities"}.get(name, "plain")
    layer = layer_of(**LAYERS[rule])
    for head in scores(method_of(name).estimate(layer, budget), layer):
        # One block more or less in each row of 201 keys, and own keys on top.
        assert budget - 0.11 <= head.density <= budget + 0.06


@pytest.mark.parametrize("name", ["moa", "ada_snapkv"])
def test_methods_that_share_a_layers_budget_meet_it_on_average(name: str, layer_of, scores) -> None:
    layer = layer_of()
    density = [head.density for head in scores(method_of(name).estimate(layer, 0.4), layer)]
    assert max(density) - min(density) > 0.01
    assert sum(density) / 4 == pytest.approx(0.4, abs=0.04)


@pytest.mark.parametrize("name", method_classes())
def test_a_method_that_does_not_apply_says_why(name: str, layer_of) -> None:
    method = build_method(name)
    answers = {rule: method.applies(layer_of(**LAYERS[rule]).context) for rule in LAYERS}
    assert all(answer.reason for answer in answers.values() if not answer.holds)
    expected = set() if name == "moa" else APPLIES.get(name, set(LAYERS) - {"diffusion"})
    assert {rule for rule, answer in answers.items() if answer.holds} == expected


@pytest.mark.parametrize("name", sorted(set(method_classes()) - {"sparsed"}))
def test_no_budget_is_the_papers_settings_whatever_they_come_to(name: str, layer_of, scores) -> None:
    layer = layer_of(n=77, labels=LABELS[:77])
    for head in scores(method_of(name).estimate(layer, None), layer):
        assert 0 < head.density <= 1


@pytest.mark.parametrize("budget", [0, -0.1, 1.01])
@pytest.mark.parametrize("name", sorted(set(method_classes()) - {"sparsed"}))
def test_a_budget_outside_0_to_1_is_refused(name: str, budget: float, layer_of) -> None:
    with pytest.raises(ConfigError, match=r"share of the visible pairs in \(0, 1\]"):
        method_of(name).estimate(layer_of(labels=LABELS), budget)


@pytest.mark.parametrize("n", [1, 2, 3, 9])
@pytest.mark.parametrize("name", sorted(set(method_classes()) - {"sparsed", "mminference", "moa"}))
def test_texts_shorter_than_any_block_are_no_special_case(name: str, n: int, layer_of, scores) -> None:
    layer = layer_of(n=n)
    method = method_of(name)
    if not method.applies(layer.context).holds:
        assert n == 1, "only a method that wants a prompt and an answer may refuse, and only a single token"
        return
    for budget in (None, 0.2):
        assert all(0 < head.recall <= head.oracle + 1e-9 for head in scores(method.estimate(layer, budget), layer))


@pytest.mark.parametrize(
    "name", sorted(set(method_classes()) - {"sparsed", "mminference", "oracle_tokens", "oracle_blocks"})
)
def test_16_bit_layers_choose_nearly_what_32_bit_ones_do(name: str, layer_of, table) -> None:
    layer = layer_of()
    half = LayerAttention(*(x.bfloat16() for x in (layer.q, layer.k, layer.v)))
    whole = LayerAttention(*(x.float() for x in (half.q, half.k, half.v)))
    kept = [table(method_of(name).estimate(x, 0.3), x) for x in (half, whole)]
    assert (kept[0] ^ kept[1]).float().mean() < 0.01
