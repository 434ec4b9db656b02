"""What dictionaries with an encoder matrix share: weights, scale, target, atoms of unit norm, folding.

    pre = W_enc (x / scale - b_dec) + b_enc          (a transcoder does not subtract b_dec: it lives at the other hook)
    target_hat = target_scale * (W_dec^T f + b_dec + W_skip x / scale)

where f are the codes that a final class makes of `pre`. Codes leave in units of the target: f * target_scale.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import Any, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sparse_rep.activations import ActivationBatch
from sparse_rep.codes import SparseCodes
from sparse_rep.config_dictionary import EncoderSettings
from sparse_rep.kernels import ops
from sparse_rep.saes.coder import Dictionary
from sparse_rep.saes.entries import codes_of
from sparse_rep.saes.firing import FiringCounter
from sparse_rep.saes.geometric_median import geometric_median
from sparse_rep.saes.scale import rms_scale
from sparse_rep.saes.unit_rows import random_unit_rows, remove_radial_gradient, renormalise


class EncoderDictionary(Dictionary, ABC):
    """A dictionary whose codes are made of pre-activations. Final classes add `encode`, `loss` and what they count by.

    `d_out` makes it a transcoder: it predicts `batch.target` (n, d_out) at another hook from x (Dunefsky et al. 2024, arXiv
    2406.11944); with `config.skip` it has a linear map beside the latents (Paulo et al. 2025, arXiv 2501.18823).
    """

    def __init__(
        self, config: EncoderSettings, d_in: int, backend: ops.Backend = "auto", d_out: int | None = None
    ) -> None:
        super().__init__()
        self.transcodes = d_out is not None
        assert self.transcodes or not config.skip, "a skip connection to its own input would explain everything"
        self.backend: ops.Backend = backend
        self.n_latents, self.d_in, self.d_out = config.n_latents, d_in, d_in if d_out is None else d_out
        self.W_enc = nn.Parameter(torch.zeros(self.n_latents, self.d_in))
        self.b_enc = nn.Parameter(torch.zeros(self.n_latents))
        self.W_dec = nn.Parameter(torch.zeros(self.n_latents, self.d_out))
        self.b_dec = nn.Parameter(torch.zeros(self.d_out))
        self.W_skip = nn.Parameter(torch.zeros(self.d_out, self.d_in)) if config.skip else None
        self.firing = FiringCounter(self.n_latents, config.dead_after_tokens)
        self.scale: Tensor
        self.target_scale: Tensor
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("target_scale", torch.ones(()))

    @property
    @abstractmethod
    def config(self) -> EncoderSettings: ...

    @property
    def atoms(self) -> Float[Tensor, "m d_out"]:
        return self.W_dec

    @property
    def dead(self) -> Tensor:
        return self.firing.dead

    @property
    def centre(self) -> Float[Tensor, " d"] | None:
        """What is taken from the scaled input before the encoder multiplies it."""
        return None if self.transcodes else self.b_dec

    @torch.no_grad()
    def initialise(self, sample: ActivationBatch | Tensor, generator: torch.Generator) -> None:
        """Scales and b_dec from data, atoms uniform on the sphere; an autoencoder's encoder starts as their transpose."""
        batch = ActivationBatch.wrap(sample)
        target = self.target(batch)
        self.scale.copy_(rms_scale(batch.x))
        self.target_scale.copy_(rms_scale(target))
        self.W_dec.copy_(random_unit_rows(self.n_latents, self.d_out, generator))
        if self.transcodes:
            self.W_enc.copy_(random_unit_rows(self.n_latents, self.d_in, generator))
        else:
            self.W_enc.copy_(self.W_dec)
        self.W_enc.mul_(self._first_gain())
        self.b_dec.copy_(geometric_median(target / self.target_scale))

    def target(self, batch: ActivationBatch) -> Float[Tensor, "n d_out"]:
        """What is to be reconstructed, in its own units. Raises ValueError where a transcoder gets none."""
        if not self.transcodes:
            return batch.x
        if batch.target is None:
            raise ValueError("a transcoder needs the target's activations: give ActivationBatch(x, target=...)")
        return batch.target

    def scaled(self, batch: ActivationBatch) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n d_out"]]:
        """Input and target as the weights see them, of mean squared norm d."""
        x = batch.x / self.scale
        return x, self.target(batch) / self.target_scale if self.transcodes else x

    def centred(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """What the encoder matrix multiplies, of scaled input."""
        return x if self.centre is None else x - self.centre

    def pre_activations(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n m"]:
        """Of scaled input, as one matrix: for training by penalties, which act on every latent."""
        return torch.addmm(self.b_enc, self.centred(x), self.W_enc.T)

    def encode_above(self, x: Float[Tensor, "n d"], threshold: Float[Tensor, ""] | Float[Tensor, " m"]) -> SparseCodes:
        """Codes of scaled input where pre-activations exceed a threshold (one for all, or one a latent)."""
        rows, latents, values = ops.threshold_encode(
            x, self.W_enc, self.b_enc, threshold.expand_as(self.b_enc), self.centre, backend=self.backend, check=False
        )
        return codes_of(rows, latents, values * self.target_scale, len(x), self.n_latents)

    def predict(
        self, values: Float[Tensor, "n k"], indices: Int[Tensor, "n k"], x: Float[Tensor, "n d"]
    ) -> Float[Tensor, "n d_out"]:
        """The scaled target, from codes in the weights' units and the scaled input."""
        out = ops.sparse_decode(values, indices, self.W_dec, self.b_dec, backend=self.backend)
        return out if self.W_skip is None else out + x @ self.W_skip.T

    def predict_dense(self, codes: Float[Tensor, "n m"], x: Float[Tensor, "n d"]) -> Float[Tensor, "n d_out"]:
        """`predict` from a matrix of codes."""
        out = torch.addmm(self.b_dec, codes, self.W_dec)
        return out if self.W_skip is None else out + x @ self.W_skip.T

    def decode(self, codes: SparseCodes) -> Float[Tensor, "n d_out"]:
        values = codes.values / self.target_scale
        out = ops.sparse_decode(values, codes.indices, self.W_dec, self.b_dec, backend=self.backend)
        return out * self.target_scale

    def reconstruct(self, batch: ActivationBatch | Tensor, codes: SparseCodes) -> Float[Tensor, "n d_out"]:
        out = self.decode(codes)
        if self.W_skip is None:
            return out
        return out + (ActivationBatch.wrap(batch).x / self.scale) @ self.W_skip.T * self.target_scale

    @torch.no_grad()
    def before_step(self) -> None:
        remove_radial_gradient(self.W_dec)

    @torch.no_grad()
    def after_step(self) -> None:
        renormalise(self.W_dec)

    @torch.no_grad()
    def folded(self) -> Self:
        """A copy with scale 1 that gives the same codes and reconstructions: for formats that know no scale."""
        copied = copy.deepcopy(self)
        copied.W_enc.mul_(self.target_scale / self.scale)
        for tensor in (copied.b_enc, copied.b_dec, *copied._in_code_units()):
            tensor.mul_(self.target_scale)
        if copied.W_skip is not None:
            copied.W_skip.mul_(self.target_scale / self.scale)
        copied.scale.fill_(1)
        copied.target_scale.fill_(1)
        return copied

    def _first_gain(self) -> float:
        """What the encoder's first directions are multiplied by."""
        return 1.0

    def _in_code_units(self) -> tuple[Tensor, ...]:
        """Further tensors that scale with the codes, such as thresholds."""
        return ()

    def describe(self) -> dict[str, Any]:
        described = {**self.config.model_dump(), "d_in": self.d_in}
        return {**described, "d_out": self.d_out} if self.transcodes else described
