"""Many small coders on one device as one: their losses are mapped over stacked parameters by `torch.vmap`.

A coder of a few hundred latents costs Python and launches, not arithmetic: a hundred of them stepped together take little
longer than one. The losses are the coders' own, so any architecture can join whose loss is made of operations that `vmap` knows
and whose shapes do not depend on data.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from sparse_rep.activations import ActivationBatch
from sparse_rep.kernels.adam import adam_rows, bias_corrections, clip_scale
from sparse_rep.kernels.step_scalars import StepScalars
from sparse_rep.saes.shapes import fixed_shapes
from sparse_rep.saes.training.bank import Bank, Member, Schedule


class _Loss(nn.Module):
    """A coder whose `forward` is its loss, which is what `functional_call` calls."""

    def __init__(self, coder: nn.Module) -> None:
        super().__init__()
        self.coder = coder

    def forward(self, batch: ActivationBatch) -> dict[str, Tensor]:
        return self.coder.loss(batch)  # pyright: ignore[reportCallIssue]


@final
class SmallBank(Bank):
    """Members of one config but for seeds and learning rates. Fused over members: loss, gradient, clipping, Adam."""

    def __init__(self, members: Mapping[str, Member], schedule: Schedule, dtype: torch.dtype) -> None:
        super().__init__(members, schedule, dtype)
        self._coders = [m.coder for m in members.values()]
        modules: list[nn.Module] = [_Loss(coder) for coder in self._coders]
        parameters, self._buffers = stack_module_state(modules)
        self._p = {name: p.detach().requires_grad_() for name, p in parameters.items()}
        for i, coder in enumerate(self._coders):
            self._tie(coder, i)
        self._template: Any = copy.deepcopy(modules[0]).to("meta")
        self._template.coder.backend = "reference"  # plain operations, which vmap knows
        self._counters = [m for m in self._template.modules() if hasattr(m, "tokens_seen")]
        self._moments = {name: (torch.zeros_like(p), torch.zeros_like(p)) for name, p in self._p.items()}
        device = next(iter(self._p.values())).device
        self._rates = torch.tensor([m.lr for m in members.values()], device=device)
        self._corrections = bias_corrections(schedule.n_steps, device)
        self._losses: dict[str, Tensor] = {}

    def _tie(self, coder: nn.Module, i: int) -> None:
        """A member's parameters and buffers become views into the stacks."""
        for name, p in coder.named_parameters():
            p.data = self._p[f"coder.{name}"].detach()[i]
            p.grad = None
        for path, module in coder.named_modules():
            for name in list(module._buffers):
                module._buffers[name] = self._buffers[".".join(filter(None, ("coder", path, name)))][i]

    def advance(self, batch: ActivationBatch, step: int) -> None:
        def loss(parameters: dict[str, Tensor], buffers: dict[str, Tensor]) -> dict[str, Tensor]:
            return functional_call(self._template, (parameters, buffers), (batch,))

        with fixed_shapes():
            found = vmap(loss)(self._p, self._buffers)
        stacked = list(self._p.values())
        gradients = torch.autograd.grad(found["loss"].sum(), stacked, allow_unused=True)
        by_name = {
            name: torch.zeros_like(p) if g is None else g
            for (name, p), g in zip(self._p.items(), gradients, strict=True)
        }
        self._step_by(by_name, step)
        self._losses = {name: value.detach() for name, value in found.items()}
        for coder in self._coders:
            for module in coder.modules():
                if hasattr(module, "tokens_seen"):
                    module.tokens_seen += len(batch)  # pyright: ignore[reportOperatorIssue,reportAttributeAccessIssue]

    @torch.no_grad()
    def _step_by(self, gradients: dict[str, Tensor], step: int) -> None:
        for i, coder in enumerate(self._coders):
            for name, p in coder.named_parameters():
                p.grad = gradients[f"coder.{name}"][i]
            coder.before_step()
        members = len(self._coders)
        squares = torch.stack([g.reshape(members, -1).square().sum(-1) for g in gradients.values()]).sum(0)
        scalars = StepScalars(
            self._rates * self.schedule.factor(step), clip_scale(squares.sqrt()), self._corrections[step]
        )
        for name, p in self._p.items():
            shape = (members, 1, -1)
            m, v = (moment.view(shape) for moment in self._moments[name])
            adam_rows(p.detach().view(shape), gradients[name].reshape(shape), m, v, scalars)
        for coder in self._coders:
            coder.after_step()

    def losses(self) -> dict[str, dict[str, Tensor]]:
        return {name: {key: value[i] for key, value in self._losses.items()} for i, name in enumerate(self.members)}

    def state_dict(self) -> dict[str, Any]:
        coders = {name: member.coder.state_dict() for name, member in self.members.items()}
        return {"coders": coders, "moments": self._moments, "seen": [m.tokens_seen for m in self._counters]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, member in self.members.items():
            member.coder.load_state_dict(state["coders"][name])
        for name, pair in self._moments.items():
            for mine, saved in zip(pair, state["moments"][name], strict=True):
                mine.copy_(saved)
        for counter, seen in zip(self._counters, state["seen"], strict=True):
            counter.tokens_seen = seen

    @classmethod
    def bytes_needed(cls, members: Mapping[str, Member], batch_tokens: int) -> int:
        first = next(iter(members.values())).coder
        weights = sum(p.numel() for p in first.parameters())
        return 4 * len(members) * (4 * weights + batch_tokens * (8 * first.d_in + 6 * first.n_latents))
