"""A matching-pursuit dictionary on a CUDA device: its gradient written out, a fused optimiser, one CUDA graph a step.

The specification is `MatchingPursuit.loss` with autograd.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor

from sparse_rep.activations import ActivationBatch
from sparse_rep.kernels import adam, ops
from sparse_rep.kernels.adam import bias_corrections, clip_scale
from sparse_rep.kernels.pursuit_gradient import pursuit_gradient
from sparse_rep.kernels.pursuit_triton import MAX_ATOMS
from sparse_rep.kernels.scatter import ReverseIndex, latent_sum
from sparse_rep.kernels.step_scalars import StepScalars
from sparse_rep.saes.auxk import reach
from sparse_rep.saes.mp import MatchingPursuit
from sparse_rep.saes.training.bank import Bank, Member, Schedule
from sparse_rep.saes.training.graphed import GraphedSteps


def has_gram(m: int) -> bool:
    """Whether a Gram matrix of m atoms fits its budget and a token's correlations a program: what a graph can record."""
    return m <= MAX_ATOMS and 2 * m * m <= ops.GRAM_BUDGET


@final
class PursuitBank(Bank):
    """One member: its search reads one row of its own Gram matrix a step, and gains nothing from company.

    Atoms and moments in fp32; the search and what is read of the atoms in `dtype`, residuals and sums in fp32.
    """

    def __init__(
        self, members: Mapping[str, Member], schedule: Schedule, dtype: torch.dtype, use_graph: bool | None = None
    ) -> None:
        super().__init__(members, schedule, dtype)
        ((self._name, member),) = members.items()
        assert isinstance(member.coder, MatchingPursuit)
        self._coder = member.coder
        device = self._coder.W_dec.device
        self._atoms, self._bias = self._coder.W_dec.data, self._coder.b_dec.data
        self._shadow = None if dtype == torch.float32 else self._atoms.to(dtype)
        self._moments = {name: torch.zeros_like(self._atoms) for name in ("m", "v")}
        self._bias_moments = {name: torch.zeros_like(self._bias) for name in ("m", "v")}
        self._step = torch.zeros((), dtype=torch.int64, device=device)
        self._lr = schedule.table().to(device) * member.lr
        self._corrections = bias_corrections(schedule.n_steps, device)
        self._reach = 0
        self.use_graph = device.type == "cuda" if use_graph is None else use_graph
        self._graphs = GraphedSteps(self._take_step)
        self._losses: dict[str, Tensor] = {}

    def advance(self, batch: ActivationBatch, step: int) -> None:
        run = self._graphs if self.use_graph else self._take_step
        self._losses = run(batch.x, self._reach)
        self._coder.firing.tokens_seen += len(batch)

    @torch.no_grad()
    def _take_step(self, x: Tensor, reach: int) -> dict[str, Tensor]:
        """`reach`: dead atoms that the reviving term looks at; 0 leaves it out."""
        c, n = self._coder, len(x)
        atoms = self._atoms if self._shadow is None else self._shadow
        total = (torch.var(x, 0, correction=0).sum() * n / c.scale**2).clamp(min=1e-12)
        centred = torch.addcmul(-self._bias, x, 1 / c.scale).to(atoms.dtype)
        values, indices, _ = ops.matching_pursuit(
            centred, atoms, c.k, c.residual_threshold, backend="triton", check=False
        )
        found = pursuit_gradient(x, c.scale, self._bias, atoms, values, indices)
        idle = c.firing.tokens_since_fired
        idle.copy_(torch.where(found.used, 0, idle + n))
        fvu = found.squared_error / total
        losses = {"loss": fvu, "fvu": fvu, "l0": (indices >= 0).float().sum(-1).mean()}
        if reach:
            losses["revived"] = self._revive(found.residual, found.squared_error, total, atoms, found.atoms, reach)
            losses["loss"] = fvu - c.config.revive_coefficient * losses["revived"]
        # Half-gradients: 2 / total times them is the gradient of the loss.
        across = found.atoms.square().sum() - (found.atoms * self._atoms).sum(-1).square().sum()
        norm = (across + found.bias.square().sum()).sqrt() * 2 / total
        at = self._step[None]
        scalars = StepScalars(
            self._lr.index_select(0, at), (2 / total * clip_scale(norm))[None], self._corrections.index_select(0, at)[0]
        )
        p, g, m, v = (t[None] for t in (self._atoms, found.atoms, *self._moments.values()))
        shadow = None if self._shadow is None else self._shadow[None]
        adam.adam_rows(p, g, m, v, scalars, shadow, unit=True, backend="triton")
        p, g, m, v = (t[None, None] for t in (self._bias, found.bias, *self._bias_moments.values()))
        adam.adam_rows(p, g, m, v, scalars, backend="triton")
        self._step += 1
        return losses

    def _revive(
        self, residual: Tensor, squared_error: Tensor, total: Tensor, atoms: Tensor, d_atoms: Tensor, reach: int
    ) -> Tensor:
        """`MatchingPursuit._explained_by_dead`, its gradient added to `d_atoms`."""
        firing = self._coder.firing
        age, chosen = firing.tokens_since_fired.topk(reach, sorted=False)
        among = atoms[chosen] * (age >= firing.dead_after_tokens)[:, None]
        correlation, best = (residual @ among.T).max(-1)
        correlation = correlation.float().relu()
        explained = correlation.square().sum() / squared_error.clamp(min=1e-12)
        # The term's own gradient is -2 weight / squared_error * sum of correlation * residual; halves of 1 / total here.
        share = -self._coder.config.revive_coefficient * total / squared_error.clamp(min=1e-12)
        index = ReverseIndex.of(chosen[best][:, None], len(atoms))
        latent_sum(index, (correlation * share)[:, None], residual, 1, d_atoms, add=True)
        return explained

    def losses(self) -> dict[str, dict[str, Tensor]]:
        coder = self._coder
        n_dead = int(coder.dead.sum()) if coder.config.revive_coefficient > 0 else 0
        most = reach(coder.n_latents, coder.d_in // 2)
        self._reach = most if n_dead else 0
        return {self._name: {**self._losses, "dead_share": coder.dead.float().mean()}}

    def state_dict(self) -> dict[str, Any]:
        return {
            "coder": self._coder.state_dict(),
            "moments": self._moments,
            "bias_moments": self._bias_moments,
            "step": self._step,
            "reach": self._reach,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._coder.load_state_dict(state["coder"])
        for mine, saved in ((self._moments, state["moments"]), (self._bias_moments, state["bias_moments"])):
            for name, moment in mine.items():
                moment.copy_(saved[name])
        if self._shadow is not None:
            self._shadow.copy_(self._atoms)
        self._step.copy_(state["step"])
        self._reach = state["reach"]

    @classmethod
    def bytes_needed(cls, members: Mapping[str, Member], batch_tokens: int) -> int:
        (member,) = members.values()
        coder = member.coder
        m, d = coder.n_latents, coder.d_in
        # Masters, moments, gradient and copy; the Gram matrix; correlations; a chunk of per-use rows.
        return 18 * m * d + min(2 * m * m, ops.GRAM_BUDGET) + 4 * batch_tokens * m + 2**29
