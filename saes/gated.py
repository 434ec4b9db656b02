"""Gated dictionary: one encoder says which latents fire, a tied one how much (Rajamanoharan et al. 2024a, arXiv 2404.16014)."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from sparse_rep.activations import ActivationBatch
from sparse_rep.codes import SparseCodes
from sparse_rep.config_dictionary import GatedConfig
from sparse_rep.kernels import ops
from sparse_rep.saes.encoder import EncoderDictionary
from sparse_rep.saes.entries import codes_of
from sparse_rep.saes.losses import active_share, mean_squared_norm, rectifier_gain, variance
from sparse_rep.saes.penalty import PenaltyWeight
from sparse_rep.saes.registry import coder_of


@final
@coder_of(GatedConfig)
class Gated(EncoderDictionary):
    """gate = W_enc (x - b_dec) + b_enc; f = H(gate) ReLU(exp(r_mag) W_enc (x - b_dec) + b_mag).

    `b_enc` is the paper's b_gate: the two encoders share their directions.
    """

    def __init__(self, config: GatedConfig, d_in: int, backend: ops.Backend = "auto", d_out: int | None = None) -> None:
        super().__init__(config, d_in, backend, d_out)
        self._config = config
        self.r_mag = nn.Parameter(torch.zeros(config.n_latents))
        self.b_mag = nn.Parameter(torch.zeros(config.n_latents))
        self.penalty = PenaltyWeight(config)

    @property
    def config(self) -> GatedConfig:
        return self._config

    def encode(self, batch: ActivationBatch | Tensor) -> SparseCodes:
        x = ActivationBatch.wrap(batch).x / self.scale
        rows, latents, gate = ops.threshold_encode(
            x, self.W_enc, self.b_enc, torch.zeros_like(self.b_enc), self.centre, backend=self.backend, check=False
        )
        shared = gate - self.b_enc[latents]
        codes = (self.r_mag[latents].exp() * shared + self.b_mag[latents]).relu()
        return codes_of(rows, latents, codes * self.target_scale, len(x), self.n_latents)

    def loss(self, batch: ActivationBatch) -> dict[str, Tensor]:
        """(mean ||error||^2 + weight * mean sum of ReLU(gate) + mean ||error of ReLU(gate)||^2) / variance.

        The last term decodes the rectified gates with a frozen decoder: gates must say how much, so that they learn to fire
        where it matters, and the decoder is not bent to serve them.
        """
        x, target = self.scaled(batch)
        gate = self.pre_activations(x)
        codes = torch.where(gate > 0, (self.r_mag.exp() * (gate - self.b_enc) + self.b_mag).relu(), 0)
        spread = variance(target)
        fvu = mean_squared_norm(target - self.predict_dense(codes, x)) / spread
        opened = gate.relu()
        frozen = torch.addmm(self.b_dec.detach(), opened, self.W_dec.detach())
        if self.W_skip is not None:
            frozen = frozen + x @ self.W_skip.detach().T
        gate_fvu = mean_squared_norm(target - frozen) / spread
        weight = self.penalty.now(self.firing.tokens_seen)
        sparsity = weight * opened.sum(-1).mean() / spread
        active = codes.detach() > 0
        l0 = active_share(active)
        self.firing.note_mask(active.any(0), len(x))
        self.penalty.steer(l0, self.firing.tokens_seen)
        return {
            "loss": fvu + sparsity + gate_fvu,
            "fvu": fvu,
            "sparsity": sparsity,
            "gate_fvu": gate_fvu,
            "penalty": weight,
            "l0": l0,
            "dead_share": self.dead.float().mean(),
        }

    def _first_gain(self) -> float:
        return rectifier_gain(self.n_latents, self.d_in)

    def _in_code_units(self) -> tuple[Tensor, ...]:
        return (self.b_mag,)
