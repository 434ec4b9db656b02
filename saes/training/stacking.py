"""Stacked parameters: one tensor for all members of a bank, each member's own being a view into it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


@torch.no_grad()
def stack_members(members: Sequence[nn.Module], names: Sequence[str]) -> dict[str, Tensor]:
    """(B, ...) tensors by parameter name. Afterwards the members' parameters are views: what moves one moves the other."""
    stacks = {name: torch.stack([getattr(member, name).detach() for member in members]) for name in names}
    for name, stack in stacks.items():
        for member, own in zip(members, stack, strict=True):
            getattr(member, name).data = own
    return stacks


def wide_bmm(a: Tensor, b: Tensor) -> Tensor:
    """Batched product of operands of one dtype, with fp32 result."""
    if a.dtype == torch.float32:
        return a @ b
    return torch.bmm(a, b, out_dtype=torch.float32) if a.is_cuda else a.float() @ b.float()
