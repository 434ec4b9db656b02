"""A TopK dictionary whose latents are divided among ranks: for widths that do not fit one device.

Every rank sees every token and holds m / w latents with their moments. A step sends the k best values of each token a rank
(to choose the best k of all), one sum of partial reconstructions, and the gradient of b_dec: bytes in proportion to the
tokens, none to the latents. The specification is `TopK.loss` with autograd in one process.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparse_rep.activations import ActivationBatch
from sparse_rep.errors import ConfigError
from sparse_rep.kernels import adam, ops
from sparse_rep.kernels.adam import bias_corrections, clip_scale
from sparse_rep.kernels.step_scalars import StepScalars
from sparse_rep.saes.auxk import reach
from sparse_rep.saes.ranks import current
from sparse_rep.saes.topk import TopK
from sparse_rep.saes.training.bank import Bank, Member, Schedule

SHARDED = ("W_enc", "b_enc", "W_dec")


@final
class ShardedTopKBank(Bank):
    """One member. Its coder stays on the CPU, whole, and is brought up to date by `state_dict` and `finish`."""

    def __init__(
        self, members: Mapping[str, Member], schedule: Schedule, dtype: torch.dtype, device: torch.device | str = "cpu"
    ) -> None:
        super().__init__(members, schedule, dtype)
        ((self._name, member),) = members.items()
        coder, self._ranks = member.coder, current()
        if not isinstance(coder, TopK) or coder.transcodes:
            raise ConfigError(
                "only topk dictionaries (no transcoders) can have their latents shared by several processes"
            )
        if coder.n_latents % self._ranks.world:
            raise ConfigError(
                f"n_latents={coder.n_latents} cannot be shared equally by {self._ranks.world} processes; "
                f"make it a multiple of {self._ranks.world}"
            )
        self._coder, self._device = coder, torch.device(device)
        self._share = coder.n_latents // self._ranks.world
        self._lr, self._corrections = member.lr, bias_corrections(schedule.n_steps, device)
        self._p: dict[str, Tensor] = {}
        self._take_up()
        self._moments = {name: (torch.zeros_like(p), torch.zeros_like(p)) for name, p in self._p.items()}
        self._losses: dict[str, Tensor] = {}

    def _mine(self, whole: Tensor) -> Tensor:
        first = self._ranks.rank * self._share
        return whole[first : first + self._share]

    def _take_up(self) -> None:
        """This rank's part of the coder, onto the device."""
        for name in (*SHARDED, "b_dec"):
            whole = getattr(self._coder, name).detach()
            self._p[name] = (self._mine(whole) if name in SHARDED else whole).to(self._device).clone()
        self._idle = self._mine(self._coder.firing.tokens_since_fired).to(self._device).clone()
        self._scale = self._coder.scale.to(self._device)
        self._operands = {
            name: (self._p[name] if self.dtype == torch.float32 else self._p[name].to(self.dtype)).requires_grad_()
            for name in ("W_enc", "W_dec")
        }

    def advance(self, batch: ActivationBatch, step: int) -> None:
        ranks, n = self._ranks, len(batch)
        x = batch.x / self._scale
        total = (x - x.mean(0)).square().sum().clamp(min=1e-12)
        W_enc, W_dec = self._operands["W_enc"], self._operands["W_dec"]
        b_enc = self._p["b_enc"].detach().requires_grad_()
        b_dec = self._p["b_dec"].detach().requires_grad_()
        centred = (x - b_dec).to(self.dtype)
        values, indices = self._best(*self._encode(centred, W_enc, b_enc))
        partial = self._decode(values, indices, W_dec)
        x_hat = ranks.sum_(partial.detach().float(), "reconstruction") + b_dec.detach()
        error = x - x_hat
        slope = -2 * error / total
        torch.autograd.backward(partial, slope.to(partial.dtype), retain_graph=True)
        losses = {"fvu": error.square().sum() / total, "loss": error.square().sum() / total}
        self._note_fired(indices, n)
        n_dead = int(ranks.sum_((self._idle >= self._coder.firing.dead_after_tokens).sum(), "counts"))
        if n_dead and self._coder.config.aux_coefficient > 0:
            losses["aux"] = self._auxk(centred, error, W_enc, b_enc, W_dec, n_dead)
            losses["loss"] = losses["fvu"] + self._coder.config.aux_coefficient * losses["aux"]
        assert b_dec.grad is not None
        gradients = {"W_enc": W_enc.grad, "W_dec": W_dec.grad, "b_enc": b_enc.grad}
        gradients["b_dec"] = ranks.sum_(b_dec.grad, "gradients") + slope.sum(0)
        self._step_by(gradients, step)
        losses["l0"] = ranks.sum_((indices >= 0).sum().float(), "counts") / n
        losses["dead_share"] = torch.tensor(n_dead / self._coder.n_latents, device=x.device)
        self._losses = losses

    def _encode(self, centred: Tensor, W_enc: Tensor, b_enc: Tensor) -> tuple[Tensor, Tensor]:
        k = min(self._coder.k, self._share)
        return ops.topk_encode(centred, W_enc, b_enc, k, backend=self._coder.backend, check=False)

    def _decode(self, values: Tensor, indices: Tensor, W_dec: Tensor) -> Tensor:
        return ops.sparse_decode(values, indices, W_dec, backend=self._coder.backend)

    def _best(
        self, values: Float[Tensor, "n k"], indices: Int[Tensor, "n k"]
    ) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"]]:
        """This rank's codes that are among the k best of all ranks; ties go to the lower rank, whose latents come first."""
        everyone = self._ranks.gather(values.detach()).transpose(0, 1).flatten(1)
        chosen = everyone.sort(dim=-1, descending=True, stable=True).indices[:, : self._coder.k]
        kept = torch.zeros_like(everyone, dtype=torch.bool).scatter_(1, chosen, True)
        width = values.shape[1]
        mine = kept[:, self._ranks.rank * width : (self._ranks.rank + 1) * width]
        return torch.where(mine, values, 0), torch.where(mine, indices, -1)

    def _note_fired(self, indices: Tensor, n_tokens: int) -> None:
        fired = torch.zeros(self._share + 1, dtype=torch.bool, device=indices.device)
        fired[torch.where(indices >= 0, indices, self._share).flatten()] = True
        self._idle = torch.where(fired[:-1], 0, self._idle + n_tokens)
        self._coder.firing.tokens_seen += n_tokens

    def _auxk(self, centred: Tensor, error: Tensor, W_enc: Tensor, b_enc: Tensor, W_dec: Tensor, n_dead: int) -> Tensor:
        """`auxk.auxk_loss` over all ranks' dead latents; where more than its `reach` are dead, all compete here."""
        k_aux, config = self._coder.k_aux, self._coder.config
        age, chosen = self._idle.topk(min(reach(self._coder.n_latents, k_aux), self._share))
        pre = torch.addmm(b_enc[chosen].to(centred.dtype), centred, W_enc[chosen].T).relu()
        values = torch.where(age >= self._coder.firing.dead_after_tokens, pre, 0)
        if self._ranks.world * values.shape[1] > k_aux:
            best = values.detach().topk(min(k_aux, values.shape[1]), sorted=False).values
            everyone = self._ranks.gather(best).transpose(0, 1).flatten(1)
            least = everyone.topk(k_aux, sorted=False).values.amin(-1, keepdim=True)
            values = torch.where(values >= least, values, 0)
        partial = values @ W_dec[chosen]
        missed = error - self._ranks.sum_(partial.detach().float(), "reconstruction")
        whole = error.square().sum().clamp(min=1e-12)
        strength = min(n_dead / k_aux, 1.0)
        slope = -2 * config.aux_coefficient * strength * missed / whole
        torch.autograd.backward(partial, slope.to(partial.dtype))
        return strength * missed.square().sum() / whole

    @torch.no_grad()
    def _step_by(self, gradients: dict[str, Tensor | None], step: int) -> None:
        """Clipped, projected Adam; the norm is that of all ranks' gradients."""
        found = {name: g for name, g in gradients.items() if g is not None}
        squares = [g.float().square().sum() for name, g in found.items() if name != "b_dec"]
        along = (found["W_dec"].float() * self._p["W_dec"]).sum(-1)
        mine = torch.stack(squares).sum() - along.square().sum()
        norm = (self._ranks.sum_(mine, "sums") + found["b_dec"].square().sum()).sqrt()
        scalars = StepScalars(
            torch.full((1,), self._lr * self.schedule.factor(step), device=self._device),
            clip_scale(norm)[None],
            self._corrections[step],
        )
        for name, p in self._p.items():
            shape = (1, *p.shape) if p.ndim == 2 else (1, 1, *p.shape)
            shadow = self._operands[name].detach().view(shape) if name in self._operands else None
            m, v = (moment.view(shape) for moment in self._moments[name])
            same = shadow is not None and shadow.data_ptr() == p.data_ptr()
            adam.adam_rows(
                p.detach().view(shape),
                found[name].view(shape),
                m,
                v,
                scalars,
                None if same else shadow,
                name == "W_dec",
            )
        for operand in self._operands.values():
            operand.grad = None

    def losses(self) -> dict[str, dict[str, Tensor]]:
        return {self._name: self._losses}

    @torch.no_grad()
    def finish(self) -> None:
        """Every rank's coder becomes the whole one."""
        for name, p in self._p.items():
            whole = self._ranks.gather(p.detach(), "weights").flatten(0, 1) if name in SHARDED else p
            getattr(self._coder, name).data.copy_(whole)
        self._coder.firing.tokens_since_fired.copy_(self._ranks.gather(self._idle, "weights").flatten())

    def state_dict(self) -> dict[str, Any]:
        """The whole coder and whole moments, so that a run may go on with another number of ranks."""
        self.finish()
        moments = {
            name: [self._ranks.gather(m, "weights").flatten(0, 1).cpu() if name in SHARDED else m.cpu() for m in pair]
            for name, pair in self._moments.items()
        }
        return {"coder": self._coder.state_dict(), "moments": moments}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._coder.load_state_dict(state["coder"])
        self._take_up()
        for name, pair in self._moments.items():
            for mine, whole in zip(pair, state["moments"][name], strict=True):
                mine.copy_(self._mine(whole) if name in SHARDED else whole)

    @classmethod
    def bytes_needed(cls, members: Mapping[str, Member], batch_tokens: int) -> int:
        (member,) = members.values()
        weights = 2 * member.coder.n_latents * member.coder.d_in // current().world
        return weights * (12 + 2 + 2) + 2**29 + batch_tokens * 16 * member.coder.d_in
