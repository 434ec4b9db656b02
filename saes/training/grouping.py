"""Which coders step together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from sparse_rep.kernels.dispatch import choose
from sparse_rep.saes.batch_selection import slots
from sparse_rep.saes.batchtopk import BatchTopK
from sparse_rep.saes.coder import SparseCoder
from sparse_rep.saes.encoder import EncoderDictionary
from sparse_rep.saes.mp import MatchingPursuit
from sparse_rep.saes.ranks import current
from sparse_rep.saes.topk import TopK
from sparse_rep.saes.training.autograd_bank import AutogradBank
from sparse_rep.saes.training.bank import Bank, Member, Schedule
from sparse_rep.saes.training.small_bank import SmallBank

GROUP_OF_COLUMNS = 64
"""A stack's spans of latents must end where a group of the product's columns does (`kernels.product.group_width`)."""


WIDEST_STACK = 2**20
"""Columns up to which a group of the product's columns has at most GROUP_OF_COLUMNS."""
SMALL = 2**16
"""Weights of a coder below which a CPU step costs Python rather than arithmetic, so that several are mapped as one."""


def grouped(members: Mapping[str, Member], device: torch.device) -> list[dict[str, Member]]:
    """Members that can share a bank, in the order given; a coder that cannot be stacked is a group of its own."""
    groups: dict[Any, dict[str, Member]] = {}
    for name, member in members.items():
        key = _stack_key(member.coder, device) or _small_key(member.coder) or name
        groups.setdefault(key, {})[name] = member
    return [part for group in groups.values() for part in _split(group, device)]


def _split(group: dict[str, Member], device: torch.device) -> list[dict[str, Member]]:
    """Parts whose stacks are not wider than spans of whole groups of columns allow."""
    first = next(iter(group.values())).coder
    most = len(group) if _stack_key(first, device) is None else max(WIDEST_STACK // first.n_latents, 1)
    names = list(group)
    return [{name: group[name] for name in names[at : at + most]} for at in range(0, len(names), most)]


def assemble(members: Mapping[str, Member], schedule: Schedule, device: torch.device, dtype: torch.dtype) -> list[Bank]:
    """The banks of all members, whose coders are on `device` and initialised."""
    return [bank_class(group, device)(group, schedule, dtype) for group in grouped(members, device)]


def bank_class(group: Mapping[str, Member], device: torch.device) -> type[Bank]:
    """The kind of bank a group of `grouped` makes."""
    coder = next(iter(group.values())).coder
    if _stack_key(coder, device) is not None:
        from sparse_rep.saes.training.topk_bank import TopKBank

        return TopKBank
    if isinstance(coder, MatchingPursuit) and _fused(coder, device) and current().world == 1:
        from sparse_rep.saes.training.pursuit_bank import PursuitBank, has_gram

        if has_gram(coder.n_latents):
            return PursuitBank
    return AutogradBank if len(group) == 1 else SmallBank


def _fused(coder: TopK | BatchTopK | MatchingPursuit, device: torch.device) -> bool:
    """Whether there is a written-out step: on CUDA, with Triton, and rows that its products can load."""
    return device.type == "cuda" and choose(coder.backend, device) == "triton" and coder.d_in % 8 == 0


def _small_key(coder: SparseCoder) -> tuple[Any, ...] | None:
    """Equal for small coders of one config; None for those that step alone."""
    if not isinstance(coder, EncoderDictionary | MatchingPursuit) or current().world > 1:
        return None
    if sum(p.numel() for p in coder.parameters()) > SMALL:
        return None
    return type(coder), coder.config, coder.d_in, coder.d_out


def _stack_key(coder: SparseCoder, device: torch.device) -> tuple[Any, ...] | None:
    """Equal for coders that fit one stack; None where there is no fused step for them."""
    if not isinstance(coder, TopK | BatchTopK) or coder.transcodes or not _fused(coder, device):
        return None
    from sparse_rep.kernels.select import fits

    k = coder.k if isinstance(coder, TopK) else slots(coder.k, coder.n_latents)
    if coder.n_latents % GROUP_OF_COLUMNS or not fits(k, GROUP_OF_COLUMNS):
        return None
    own = () if isinstance(coder, TopK) else (coder.k, coder.threshold.rate)
    return coder.config.kind, *own, coder.n_latents, coder.d_in, coder.k_aux, coder.firing.dead_after_tokens
