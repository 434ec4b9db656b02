"""ReLU dictionary with an L1 penalty (Bricken et al. 2023, "Towards Monosemanticity", and their April 2024 update)."""

from __future__ import annotations

from typing import final

from torch import Tensor

from sparse_rep.activations import ActivationBatch
from sparse_rep.codes import SparseCodes
from sparse_rep.config_dictionary import StandardConfig
from sparse_rep.kernels import ops
from sparse_rep.saes.encoder import EncoderDictionary
from sparse_rep.saes.losses import active_share, mean_squared_norm, rectifier_gain, variance
from sparse_rep.saes.penalty import PenaltyWeight
from sparse_rep.saes.registry import coder_of


@final
@coder_of(StandardConfig)
class Standard(EncoderDictionary):
    """f = ReLU(pre). Atoms are of unit norm, as in the first paper, so the penalty is the plain sum of codes."""

    def __init__(
        self, config: StandardConfig, d_in: int, backend: ops.Backend = "auto", d_out: int | None = None
    ) -> None:
        super().__init__(config, d_in, backend, d_out)
        self._config = config
        self.penalty = PenaltyWeight(config)

    @property
    def config(self) -> StandardConfig:
        return self._config

    def encode(self, batch: ActivationBatch | Tensor) -> SparseCodes:
        return self.encode_above(ActivationBatch.wrap(batch).x / self.scale, self.scale.new_zeros(()))

    def loss(self, batch: ActivationBatch) -> dict[str, Tensor]:
        """(mean ||error||^2 + weight * mean sum of codes) / variance: the papers' loss over the target's variance."""
        x, target = self.scaled(batch)
        codes = self.pre_activations(x).relu()
        spread = variance(target)
        fvu = mean_squared_norm(target - self.predict_dense(codes, x)) / spread
        weight = self.penalty.now(self.firing.tokens_seen)
        sparsity = weight * codes.sum(-1).mean() / spread
        l0 = active_share(codes > 0)
        self.firing.note_mask((codes > 0).any(0), len(x))
        self.penalty.steer(l0, self.firing.tokens_seen)
        return {
            "loss": fvu + sparsity,
            "fvu": fvu,
            "sparsity": sparsity,
            "penalty": weight,
            "l0": l0,
            "dead_share": self.dead.float().mean(),
        }

    def _first_gain(self) -> float:
        return rectifier_gain(self.n_latents, self.d_in)
