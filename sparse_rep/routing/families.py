"""Where each family of mixtures keeps its routers, and by what rule they weigh experts.

Read in the modelling code of transformers 5.17 and 5.23. The rule says what the numbers mean; which experts were chosen is
never recomputed from it but taken from what the router returned (capture.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from sparse_rep.errors import ConfigError

Score = Literal["softmax", "topk_softmax", "sigmoid", "sparsemixer", "unknown"]
"""How logits become weights: softmax over all experts and then top k; top k of the logits and then softmax over those;
sigmoid each; PhiMoE's sparsemixer (Liu et al. 2024, arXiv 2409.12136: a softmax over near-ties for each of two picks)."""
MAX_EXPERTS = 65_534
"""Expert ids are 16 bits wide in the store, the largest standing for "none"."""


@dataclass(frozen=True)
class Family:
    """Routers of one family of models."""

    router: str
    """Module path inside a layer."""
    score: Score
    renormalised: bool | str
    """The chosen weights are divided by their sum; a string names the field of the config that decides."""
    scale: str | None = None
    """Field of the config that multiplies the weights afterwards."""
    shared: Callable[[Any], int] = lambda config: 0
    """Experts that every token passes."""
    groups: Callable[[Any], tuple[int, int] | None] = lambda config: None
    """(groups, groups allowed a token), where experts are chosen from the best groups only."""


FAMILIES: dict[str, Family] = {
    "mixtral": Family("mlp.gate", "softmax", renormalised=True),
    "olmoe": Family("mlp.gate", "softmax", renormalised="norm_topk_prob"),
    "qwen2_moe": Family("mlp.gate", "softmax", renormalised="norm_topk_prob", shared=lambda c: 1),
    "qwen3_moe": Family("mlp.gate", "softmax", renormalised="norm_topk_prob"),
    "gpt_oss": Family("mlp.router", "topk_softmax", renormalised=True),
    "granitemoe": Family("block_sparse_moe.router", "topk_softmax", renormalised=True),
    "phimoe": Family("mlp.router", "sparsemixer", renormalised=False),
    "deepseek_v2": Family(
        "mlp.gate",
        "softmax",
        renormalised=False,
        scale="routed_scaling_factor",
        shared=lambda c: c.n_shared_experts or 0,
        groups=lambda c: (c.n_group, c.topk_group) if c.topk_method == "group_limited_greedy" else None,
    ),
    "deepseek_v3": Family(
        "mlp.gate",
        "sigmoid",
        renormalised="norm_topk_prob",
        scale="routed_scaling_factor",
        shared=lambda c: c.n_shared_experts or 0,
        groups=lambda c: (c.n_group, c.topk_group),
    ),
    "llama4_text": Family("feed_forward.router", "sigmoid", renormalised=False, shared=lambda c: 1),
}
"""By `model_type` of the text model's config."""


@dataclass(frozen=True)
class Router:
    """One router of a model."""

    layer: int
    name: str
    """Module path in the Hugging Face model."""
    n_experts: int
    k: int
    score: Score
    renormalised: bool | None
    scale: float = 1.0
    n_shared: int = 0
    groups: tuple[int, int] | None = None

    def module(self, model: nn.Module) -> nn.Module:
        return model.get_submodule(self.name)


def find_routers(model: nn.Module, mapping: str | None = None) -> list[Router]:
    """Every router of a Hugging Face model, by layer. Dense layers have none.

    Args:
        model: of a family in `FAMILIES`, or another whose router classes end in Router, Gating or Gate.
        mapping: `PATTERN:top_k=K` for routers that are neither, PATTERN being module paths with * for the layer.

    Raises:
        ConfigError: a dense model, a mapping that fits nothing, or more experts than ids can tell apart.
    """
    config: Any = model.config.get_text_config()  # pyright: ignore
    routers = list(_mapped(model, mapping) if mapping else _known(model, config))
    if not routers:
        where = f"no module is named {mapping.partition(':')[0]}" if mapping else "it is dense"
        raise ConfigError(
            f"this {config.model_type!r} model has no router: {where}. Families with routers that are known: "
            f"{', '.join(FAMILIES)}; for another mixture name its routers, as in --routers 'model.layers.*.mlp.gate:top_k=2'"
        )
    for router in routers:
        if router.n_experts > MAX_EXPERTS:
            raise ConfigError(f"{router.name} has {router.n_experts:,} experts; at most {MAX_EXPERTS:,} can be stored")
    return sorted(routers, key=lambda r: r.layer)


def _known(model: nn.Module, config: Any) -> Iterator[Router]:
    family = FAMILIES.get(config.model_type)
    for name, module in model.named_modules():
        layer = re.search(r"\blayers\.(\d+)\.(.+)$", name)
        if layer is None:
            continue
        if family is None:
            weight = getattr(module, "weight", None)
            if type(module).__name__.endswith(("Router", "Gating", "Gate")) and weight is not None:
                k = getattr(module, "top_k", None) or getattr(config, "num_experts_per_tok", 1)
                yield Router(int(layer[1]), name, len(weight), k, "unknown", None)
        elif layer[2] == family.router:
            yield _of_family(family, config, int(layer[1]), name, module)


def _of_family(family: Family, config: Any, layer: int, name: str, module: Any) -> Router:
    return Router(
        layer,
        name,
        n_experts=len(module.weight),
        k=config.num_experts_per_tok,
        score=family.score,
        renormalised=getattr(config, family.renormalised)
        if isinstance(family.renormalised, str)
        else family.renormalised,
        scale=float(getattr(config, family.scale)) if family.scale else 1.0,
        n_shared=family.shared(config),
        groups=family.groups(config),
    )


def _mapped(model: nn.Module, mapping: str) -> Iterator[Router]:
    pattern, _, rest = mapping.rpartition(":")
    found = re.fullmatch(r"top_k=(\d+)", rest)
    if not pattern or pattern.count("*") != 1 or found is None:
        raise ConfigError(
            f"cannot read --routers {mapping!r}: write 'PATTERN:top_k=K', PATTERN having one * for the layer"
        )
    expression = re.compile(re.escape(pattern).replace(r"\*", r"(\d+)"))
    for name, module in model.named_modules():
        match = expression.fullmatch(name)
        if match:
            weight = getattr(module, "weight", None)
            if not isinstance(weight, Tensor):
                raise ConfigError(f"{name} ({type(module).__name__}) has no weight, so it is not a router")
            yield Router(int(match[1]), name, len(weight), int(found[1]), "unknown", None)
