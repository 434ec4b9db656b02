"""TopK dictionary: exactly k latents a token, dead ones revived by AuxK (Gao et al. 2024, arXiv 2406.04093)."""

from __future__ import annotations

from typing import final

from torch import Tensor

from sparse_rep.activations import ActivationBatch
from sparse_rep.codes import SparseCodes
from sparse_rep.config_dictionary import TopKConfig
from sparse_rep.kernels import ops
from sparse_rep.saes.auxk import auxk_loss, default_k_aux
from sparse_rep.saes.encoder import EncoderDictionary
from sparse_rep.saes.losses import active_share, mean_squared_norm, variance
from sparse_rep.saes.registry import coder_of


@final
@coder_of(TopKConfig)
class TopK(EncoderDictionary):
    """f = TopK(ReLU(pre)): see `EncoderDictionary` for pre and what is made of f."""

    def __init__(self, config: TopKConfig, d_in: int, backend: ops.Backend = "auto", d_out: int | None = None) -> None:
        super().__init__(config, d_in, backend, d_out)
        self._config = config
        self.k = config.k
        self.k_aux = min(config.k_aux or default_k_aux(d_in), config.n_latents)

    @property
    def config(self) -> TopKConfig:
        return self._config

    def encode(self, batch: ActivationBatch | Tensor) -> SparseCodes:
        values, indices = self._select(ActivationBatch.wrap(batch).x / self.scale)
        return SparseCodes(values * self.target_scale, indices, self.n_latents)

    def loss(self, batch: ActivationBatch) -> dict[str, Tensor]:
        """Normalised MSE (1 = predicting the mean) plus the weighted AuxK loss, both in scaled units."""
        x, target = self.scaled(batch)
        values, indices = self._select(x)
        error = target - self.predict(values, indices, x)
        fvu = mean_squared_norm(error) / variance(target)
        self.firing.note(indices, len(x))
        losses = {"loss": fvu, "fvu": fvu, "l0": active_share(indices >= 0), "dead_share": self.dead.float().mean()}
        if self.config.aux_coefficient > 0:
            losses["aux"] = auxk_loss(
                self.centred(x), error, self.W_enc, self.b_enc, self.W_dec, self.firing, self.k_aux
            )
            losses["loss"] = fvu + self.config.aux_coefficient * losses["aux"]
        return losses

    def _select(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return ops.topk_encode(x, self.W_enc, self.b_enc, self.k, self.centre, backend=self.backend, check=False)
