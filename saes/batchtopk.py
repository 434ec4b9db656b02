"""BatchTopK dictionary: k latents a token on average over a batch (Bussmann et al. 2024, arXiv 2412.06410)."""

from __future__ import annotations

from typing import final

from torch import Tensor

from sparse_rep.activations import ActivationBatch
from sparse_rep.codes import SparseCodes
from sparse_rep.config_dictionary import BatchTopKConfig
from sparse_rep.kernels import ops
from sparse_rep.saes.auxk import auxk_loss, default_k_aux
from sparse_rep.saes.batch_selection import BatchThreshold, batch_codes
from sparse_rep.saes.encoder import EncoderDictionary
from sparse_rep.saes.losses import active_share, mean_squared_norm, variance
from sparse_rep.saes.registry import coder_of


@final
@coder_of(BatchTopKConfig)
class BatchTopK(EncoderDictionary):
    """f = ReLU(pre) where it is among the k * n largest of the batch; at inference, where it is above one threshold.

    `k` may be changed between steps, so that a schedule can start from denser codes.
    """

    def __init__(
        self, config: BatchTopKConfig, d_in: int, backend: ops.Backend = "auto", d_out: int | None = None
    ) -> None:
        super().__init__(config, d_in, backend, d_out)
        self._config = config
        self.k = float(config.k)
        self.k_aux = min(config.k_aux or default_k_aux(d_in), config.n_latents)
        self.threshold = BatchThreshold(config.threshold_rate)

    @property
    def config(self) -> BatchTopKConfig:
        return self._config

    def encode(self, batch: ActivationBatch | Tensor) -> SparseCodes:
        return self.encode_above(ActivationBatch.wrap(batch).x / self.scale, self.threshold.value)

    def loss(self, batch: ActivationBatch) -> dict[str, Tensor]:
        """Normalised MSE plus the weighted AuxK loss, as TopK's."""
        x, target = self.scaled(batch)
        values, indices, mask = batch_codes(self, x, self.k, self.threshold)
        error = target - self.predict(values, indices, x)
        fvu = mean_squared_norm(error) / variance(target)
        self.firing.note(indices, len(x))
        losses = {
            "loss": fvu,
            "fvu": fvu,
            "l0": active_share(mask),
            "dead_share": self.dead.float().mean(),
            "threshold": self.threshold.value.clone(),
        }
        if self.config.aux_coefficient > 0:
            losses["aux"] = auxk_loss(
                self.centred(x), error, self.W_enc, self.b_enc, self.W_dec, self.firing, self.k_aux
            )
            losses["loss"] = fvu + self.config.aux_coefficient * losses["aux"]
        return losses

    def _in_code_units(self) -> tuple[Tensor, ...]:
        return (self.threshold.value,)
