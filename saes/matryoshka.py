"""Matryoshka BatchTopK: nested dictionaries, each of which must reconstruct alone (Bussmann et al. 2025, arXiv 2503.17547)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparse_rep.activations import ActivationBatch
from sparse_rep.codes import SparseCodes
from sparse_rep.config_dictionary import MatryoshkaConfig
from sparse_rep.kernels import ops
from sparse_rep.saes.auxk import auxk_loss, default_k_aux
from sparse_rep.saes.batch_selection import BatchThreshold, batch_codes
from sparse_rep.saes.encoder import EncoderDictionary
from sparse_rep.saes.losses import active_share, mean_squared_norm, variance
from sparse_rep.saes.registry import coder_of


@final
@coder_of(MatryoshkaConfig)
class Matryoshka(EncoderDictionary):
    """BatchTopK codes; the loss is the sum of those of the first m_1, m_2, ... m latents, so that general ones come first."""

    def __init__(
        self, config: MatryoshkaConfig, d_in: int, backend: ops.Backend = "auto", d_out: int | None = None
    ) -> None:
        super().__init__(config, d_in, backend, d_out)
        self._config = config
        self.k, self.widths = float(config.k), config.widths()
        self.k_aux = min(config.k_aux or default_k_aux(d_in), config.n_latents)
        self.threshold = BatchThreshold(config.threshold_rate)

    @property
    def config(self) -> MatryoshkaConfig:
        return self._config

    def encode(self, batch: ActivationBatch | Tensor) -> SparseCodes:
        return self.encode_above(ActivationBatch.wrap(batch).x / self.scale, self.threshold.value)

    def loss(self, batch: ActivationBatch) -> dict[str, Tensor]:
        """Sum over prefixes of their normalised MSE (`fvu` is that of the whole) plus the weighted AuxK loss of the whole."""
        x, target = self.scaled(batch)
        values, indices, mask = batch_codes(self, x, self.k, self.threshold)
        spread = variance(target)
        error, total = target, torch.zeros_like(spread)
        losses: dict[str, Tensor] = {}
        for width, prediction in zip(self.widths, self.prefixes(values, indices, x), strict=True):
            error = target - prediction
            losses[f"fvu_{width}"] = mean_squared_norm(error) / spread
            total = total + losses[f"fvu_{width}"]
        self.firing.note(indices, len(x))
        losses |= {
            "loss": total,
            "fvu": losses.pop(f"fvu_{self.n_latents}"),
            "l0": active_share(mask),
            "dead_share": self.dead.float().mean(),
            "threshold": self.threshold.value.clone(),
        }
        if self.config.aux_coefficient > 0:
            losses["aux"] = auxk_loss(
                self.centred(x), error, self.W_enc, self.b_enc, self.W_dec, self.firing, self.k_aux
            )
            losses["loss"] = total + self.config.aux_coefficient * losses["aux"]
        return losses

    def prefixes(
        self, values: Float[Tensor, "n w"], indices: Int[Tensor, "n w"], x: Float[Tensor, "n d"]
    ) -> Iterator[Float[Tensor, "n d_out"]]:
        """What the first m_1, m_2, ... latents predict together, each from the one before by its own latents' share."""
        none = torch.full_like(indices[:, :1], -1)
        prediction = self.predict(torch.zeros_like(values[:, :1]), none, x)
        for low, high in pairwise((0, *self.widths)):
            inside = (indices >= low) & (indices < high)
            prediction = prediction + ops.sparse_decode(
                torch.where(inside, values, 0), torch.where(inside, indices, -1), self.W_dec, backend=self.backend
            )
            yield prediction

    def _in_code_units(self) -> tuple[Tensor, ...]:
        return (self.threshold.value,)
