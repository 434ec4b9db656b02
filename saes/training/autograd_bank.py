"""A bank of one: any coder, by its own `loss`, autograd and torch's Adam. What every other bank must agree with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor

from sparse_rep.activations import ActivationBatch
from sparse_rep.kernels.step_scalars import BETAS, EPSILON
from sparse_rep.saes.ranks import current
from sparse_rep.saes.training.bank import Bank, Member, Schedule

LARGEST_GRADIENT = 1.0
"""Losses are shares of the variance, so one bound fits all; it only bites in the first steps."""


@final
class AutogradBank(Bank):
    """Weights and moments in fp32; with a 16-bit `dtype` products run under autocast."""

    def __init__(self, members: Mapping[str, Member], schedule: Schedule, dtype: torch.dtype = torch.float32) -> None:
        super().__init__(members, schedule, dtype)
        ((self._name, self._member),) = members.items()
        self._coder = self._member.coder
        self._parameters = list(self._coder.parameters())
        self._device = self._parameters[0].device
        self._optimiser = torch.optim.Adam(self._parameters, lr=self._member.lr, betas=BETAS, eps=EPSILON, fused=True)
        self._losses: dict[str, Tensor] = {}

    def advance(self, batch: ActivationBatch, step: int) -> None:
        for group in self._optimiser.param_groups:
            group["lr"] = self._member.lr * self.schedule.factor(step)
        self._optimiser.zero_grad(set_to_none=True)
        with torch.autocast(self._device.type, self.dtype, enabled=self.dtype != torch.float32):
            losses = self._coder.loss(batch)
        losses["loss"].backward()
        ranks = current()
        for parameter in self._parameters if ranks.world > 1 else ():
            if parameter.grad is not None:
                ranks.sum_gradient(parameter.grad).div_(ranks.world)
        self._coder.before_step()
        torch.nn.utils.clip_grad_norm_(self._parameters, LARGEST_GRADIENT)
        self._optimiser.step()
        self._coder.after_step()
        self._losses = {key: value.detach() for key, value in losses.items()}

    def losses(self) -> dict[str, dict[str, Tensor]]:
        means = current().mean(torch.stack([value.float() for value in self._losses.values()]))
        return {self._name: dict(zip(self._losses, means, strict=True))}

    def state_dict(self) -> dict[str, Any]:
        return {"coder": self._coder.state_dict(), "optimiser": self._optimiser.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._coder.load_state_dict(state["coder"])
        self._optimiser.load_state_dict(state["optimiser"])

    @classmethod
    def bytes_needed(cls, members: Mapping[str, Member], batch_tokens: int) -> int:
        (member,) = members.values()
        weights = sum(p.numel() for p in member.coder.parameters())
        # Master, gradient, two moments; errors and codes; a penalty's dense codes with their gradients.
        dense = 3 * member.coder.n_latents if "penalty" in member.coder.describe() else 0
        return 4 * (4 * weights + batch_tokens * (8 * member.coder.d_in + dense))
