"""TopK or BatchTopK coders of one shape on CUDA: stacked weights, written-out gradients, fused optimiser, a graph a step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor

from sparse_rep.activations import ActivationBatch
from sparse_rep.kernels import adam
from sparse_rep.kernels.adam import bias_corrections, clip_scale
from sparse_rep.kernels.keep_largest import MAX_COLUMNS
from sparse_rep.kernels.step_scalars import StepScalars
from sparse_rep.saes.auxk import reach
from sparse_rep.saes.batch_selection import slots
from sparse_rep.saes.batchtopk import BatchTopK
from sparse_rep.saes.ranks import current
from sparse_rep.saes.topk import TopK
from sparse_rep.saes.training.bank import Bank, Member, Schedule
from sparse_rep.saes.training.graphed import GraphedSteps
from sparse_rep.saes.training.stacking import stack_members
from sparse_rep.saes.training.topk_auxk import AuxK
from sparse_rep.saes.training.topk_gradients import topk_gradients
from sparse_rep.saes.training.topk_operands import Operands

PARAMETERS = ("W_enc", "b_enc", "W_dec", "b_dec")

REACHES = 16
"""Sizes that AuxK's products may have, and so graphs."""


@final
class TopKBank(Bank):
    """Masters and moments in fp32; products in `dtype`, whose copies of the weights the optimiser writes in its own pass.

    Which dead latents AuxK looks at is decided at each call of `losses`, the one place where the host waits for the device;
    so one that dies waits up to a logging interval to be looked at.
    """

    def __init__(
        self, members: Mapping[str, Member], schedule: Schedule, dtype: torch.dtype, use_graph: bool | None = None
    ) -> None:
        super().__init__(members, schedule, dtype)
        coders = [m.coder for m in members.values()]
        first = coders[0]
        assert isinstance(first, TopK | BatchTopK)
        self._coders: list[TopK | BatchTopK] = coders  # pyright: ignore[reportAttributeAccessIssue]
        self._device = first.W_enc.device
        self._p = stack_members(coders, PARAMETERS)
        self._idle = torch.stack([c.firing.tokens_since_fired for c in self._coders])
        for coder, idle in zip(self._coders, self._idle, strict=True):
            coder.firing.tokens_since_fired = idle
        self._moments = {name: (torch.zeros_like(p), torch.zeros_like(p)) for name, p in self._p.items()}
        self._shadow = {
            name: None if dtype == torch.float32 else self._p[name].to(dtype) for name in ("W_enc", "W_dec")
        }
        self._centre = first.b_dec.detach().clone()
        self._step = torch.zeros((), dtype=torch.int64, device=self._device)
        self._lr = schedule.table().to(self._device)[:, None] * torch.tensor(
            [m.lr for m in members.values()], device=self._device
        )
        self._corrections = bias_corrections(schedule.n_steps, self._device)
        self._choose_slots()
        self._aux_coefficient = torch.tensor([c.config.aux_coefficient for c in self._coders], device=self._device)
        self._reach = 0
        self._dead: dict[int, Tensor] = {}
        # Among several ranks a step asks the host how many rows travel.
        self.use_graph = self._device.type == "cuda" and current().world == 1 if use_graph is None else use_graph
        self._graphs = GraphedSteps(self._take_step)
        self._losses: dict[str, Tensor] = {}

    def _choose_slots(self) -> None:
        """How many codes a token has at most, and which slots are a member's own."""
        self._k_mask: Tensor | None = None
        self._threshold: tuple[Tensor, Tensor] | None = None
        first = self._coders[0]
        if isinstance(first, TopK):
            self._k, self._batch_k = int(max(c.k for c in self._coders)), None
            own = torch.tensor([c.k for c in self._coders], device=self._device)
            if (own != self._k).any():
                self._k_mask = torch.arange(self._k, device=self._device) < own[:, None]
            return
        self._k, self._batch_k = slots(first.k, first.n_latents), float(first.k)
        thresholds = [c.threshold for c in self._coders if isinstance(c, BatchTopK)]
        values, batches = (torch.stack([getattr(t, name) for t in thresholds]) for name in ("value", "batches"))
        for i, threshold in enumerate(thresholds):
            threshold.value, threshold.batches = values[i], batches[i]
        self._threshold = values, batches

    def advance(self, batch: ActivationBatch, step: int) -> None:
        run = self._graphs if self.use_graph else self._take_step
        self._losses = run(batch.x, self._reach)
        for coder in self._coders:
            coder.firing.tokens_seen += len(batch)

    @torch.no_grad()
    def _take_step(self, x: Tensor, reach: int) -> dict[str, Tensor]:
        """`reach`: dead latents that AuxK looks at; 0 leaves it out."""
        first = self._coders[0]
        auxk = None
        if reach:
            auxk = AuxK(first.k_aux, self._dead[reach], first.firing.dead_after_tokens, self._aux_coefficient)
        grads = topk_gradients(x, self._operands(), self._idle, auxk)
        clip = clip_scale(grads.squared_norm.sqrt() * grads.factor.abs())
        at = self._step[None]
        scalars = StepScalars(
            self._lr.index_select(0, at)[0], grads.factor * clip, self._corrections.index_select(0, at)[0]
        )
        for name in PARAMETERS:
            p, g, moments = self._p[name], getattr(grads, name), self._moments[name]
            if p.ndim == 2:
                p, g, moments = p[:, None], g[:, None], (moments[0][:, None], moments[1][:, None])
            adam.adam_rows(p, g, *moments, scalars, self._shadow.get(name), name == "W_dec", "triton")
        self._step += 1
        if grads.least is None:
            return grads.losses
        return {**grads.losses, "threshold": self._follow(grads.least)}

    def _follow(self, least: Tensor) -> Tensor:
        """`BatchThreshold.update` of every member."""
        assert self._threshold is not None
        values, batches = self._threshold
        first = self._coders[0]
        assert isinstance(first, BatchTopK)
        seen = torch.isfinite(least)
        weight = (1 / (batches + 1)).clamp(min=first.threshold.rate)
        values.copy_(torch.where(seen, torch.lerp(values, least, weight), values))
        batches.add_(seen)
        return values.clone()

    def _operands(self) -> Operands:
        W_enc, W_dec = (self._p[n] if self._shadow[n] is None else self._shadow[n] for n in ("W_enc", "W_dec"))
        assert W_enc is not None
        assert W_dec is not None
        return Operands(
            W_enc, W_dec, self._p["b_enc"], self._p["b_dec"], self._coders[0].scale, self._centre, self._k_mask, self._k,
            self._batch_k,
        )  # fmt: skip

    def losses(self) -> dict[str, dict[str, Tensor]]:
        dead = self._idle >= self._coders[0].firing.dead_after_tokens
        self._look_at(self._reach_of(int((dead & (self._aux_coefficient > 0)[:, None]).sum(-1).max())))
        found = {**self._losses, "dead_share": dead.float().mean(-1)}
        return {name: {key: value[i] for key, value in found.items()} for i, name in enumerate(self.members)}

    def _look_at(self, reach: int) -> None:
        """From the next step on AuxK's latents are the `reach` longest dead of now."""
        self._reach = reach
        if reach:
            longest = self._idle.topk(reach, dim=1).indices
            # Each size's list stays where a graph has read it.
            self._dead.setdefault(reach, torch.empty_like(longest)).copy_(longest)

    def _reach_of(self, n_dead: int) -> int:
        """As many as are dead, rounded up so that few graphs are captured, within the bound of the specification."""
        first = self._coders[0]
        most = min(reach(first.n_latents, first.k_aux), MAX_COLUMNS)
        grain = max(-(-most // REACHES) // 8 * 8, 8)
        return min(-(-n_dead // grain) * grain, most)

    def state_dict(self) -> dict[str, Any]:
        return {
            "coders": {name: member.coder.state_dict() for name, member in self.members.items()},
            "moments": self._moments,
            "centre": self._centre,
            "step": self._step,
            "dead": self._dead[self._reach] if self._reach else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, member in self.members.items():
            member.coder.load_state_dict(state["coders"][name])
        for name, moments in self._moments.items():
            for mine, saved in zip(moments, state["moments"][name], strict=True):
                mine.copy_(saved)
        for name, shadow in self._shadow.items():
            if shadow is not None:
                shadow.copy_(self._p[name])
        self._centre.copy_(state["centre"])
        self._step.copy_(state["step"])
        dead = state["dead"]
        self._reach = 0 if dead is None else dead.shape[1]
        if dead is not None:
            self._dead[self._reach] = dead.to(self._device)

    @classmethod
    def bytes_needed(cls, members: Mapping[str, Member], batch_tokens: int) -> int:
        first = next(iter(members.values())).coder
        weights = 2 * first.n_latents * first.d_in * len(members)
        # Masters, two moments, 16-bit copies and gradients; a chunk of the product; codes, errors and their sort.
        return weights * (12 + 2 + 2) + 2**29 + batch_tokens * len(members) * (4 * first.d_in + 2048)
