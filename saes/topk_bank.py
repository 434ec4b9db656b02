"""TopK coders of one shape on a CUDA device: stacked weights, written-out gradients, a fused optimiser, one CUDA graph a step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor

from sparse_rep.activations import ActivationBatch
from sparse_rep.kernels import adam
from sparse_rep.kernels.adam import StepScalars, bias_corrections, clip_scale
from sparse_rep.saes.auxk import reach
from sparse_rep.saes.bank import Bank, Member, Schedule
from sparse_rep.saes.stacking import stack_members
from sparse_rep.saes.topk import TopK
from sparse_rep.saes.topk_auxk import AuxK
from sparse_rep.saes.topk_gradients import Operands, topk_gradients

PARAMETERS = ("W_enc", "b_enc", "W_dec", "b_dec")

EAGER_STEPS = 3
"""Steps before a graph is captured: kernels must have been compiled and the allocator warmed."""


@final
class TopKBank(Bank):
    """Masters and moments in fp32; products in `dtype`, whose copies of the weights the optimiser writes in its own pass.

    Whether AuxK runs is decided at each call of `losses` (is any latent dead?), the one place where the host waits for the
    device; so it starts up to one logging interval after the first latent died.
    """

    def __init__(
        self, members: Mapping[str, Member], schedule: Schedule, dtype: torch.dtype, use_graph: bool | None = None
    ) -> None:
        super().__init__(members, schedule, dtype)
        coders = [m.coder for m in members.values()]
        first = coders[0]
        assert isinstance(first, TopK)
        self._coders: list[TopK] = coders  # pyright: ignore[reportAttributeAccessIssue]
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
        self._k = max(c.k for c in self._coders)
        slots = torch.arange(self._k, device=self._device)
        own = torch.tensor([c.k for c in self._coders], device=self._device)
        self._k_mask = None if all(c.k == self._k for c in self._coders) else slots < own[:, None]
        self._auxk = AuxK(
            first.k_aux,
            reach(first.n_latents, first.k_aux),
            first.firing.dead_after_tokens,
            torch.tensor([c.config.aux_coefficient for c in self._coders], device=self._device),
        )
        self._wants_auxk = any(c.config.aux_coefficient > 0 for c in self._coders)
        self._aux_on = False
        self.use_graph = self._device.type == "cuda" if use_graph is None else use_graph
        self._graphs: dict[tuple[bool, torch.Size], tuple[torch.cuda.CUDAGraph, Tensor, dict[str, Tensor]]] = {}
        self._eager: dict[tuple[bool, torch.Size], int] = {}
        self._losses: dict[str, Tensor] = {}

    def advance(self, batch: ActivationBatch, step: int) -> None:
        x = batch.x
        key = (self._aux_on, x.shape)
        if not self.use_graph:
            self._losses = self._take_step(x)
        elif key in self._graphs:
            graph, static, losses = self._graphs[key]
            static.copy_(x)
            graph.replay()
            self._losses = losses
        elif self._eager.setdefault(key, 0) < EAGER_STEPS:
            self._eager[key] += 1
            self._losses = self._take_step(x)
        else:
            self._graphs[key] = self._capture(x)
            self.advance(batch, step)
            return
        for coder in self._coders:
            coder.firing.tokens_seen += len(x)

    def _capture(self, x: Tensor) -> tuple[torch.cuda.CUDAGraph, Tensor, dict[str, Tensor]]:
        """Records a step without running it."""
        static, graph = x.clone(), torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            losses = self._take_step(static)
        return graph, static, losses

    @torch.no_grad()
    def _take_step(self, x: Tensor) -> dict[str, Tensor]:
        w = self._operands()
        grads = topk_gradients(x, w, self._idle, self._auxk if self._aux_on else None)
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
        return grads.losses

    def _operands(self) -> Operands:
        W_enc, W_dec = (self._p[n] if self._shadow[n] is None else self._shadow[n] for n in ("W_enc", "W_dec"))
        assert W_enc is not None and W_dec is not None
        return Operands(
            W_enc, W_dec, self._p["b_enc"], self._p["b_dec"], self._coders[0].scale, self._centre, self._k_mask, self._k
        )

    def losses(self) -> dict[str, dict[str, Tensor]]:
        dead = self._idle >= self._auxk.dead_after_tokens
        self._aux_on = self._wants_auxk and bool(dead.any())
        found = {**self._losses, "dead_share": dead.float().mean(-1)}
        return {name: {key: value[i] for key, value in found.items()} for i, name in enumerate(self.members)}

    def state_dict(self) -> dict[str, Any]:
        return {
            "coders": {name: member.coder.state_dict() for name, member in self.members.items()},
            "moments": self._moments,
            "centre": self._centre,
            "step": self._step,
            "aux_on": self._aux_on,
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
        self._aux_on = state["aux_on"]

    @classmethod
    def bytes_needed(cls, members: Mapping[str, Member], batch_tokens: int) -> int:
        first = next(iter(members.values())).coder
        weights = 2 * first.n_latents * first.d_in * len(members)
        # Masters, two moments, 16-bit copies and gradients; a chunk of the product; codes, errors and their sort.
        return weights * (12 + 2 + 2) + 2**29 + batch_tokens * len(members) * (4 * first.d_in + 2048)
