"""TopK dictionary: exactly k latents a token, dead ones revived by AuxK (Gao et al. 2024, arXiv 2406.04093)."""

from __future__ import annotations

from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sparse_rep.activations import ActivationBatch
from sparse_rep.codes import SparseCodes
from sparse_rep.config import TopKConfig
from sparse_rep.errors import ConfigError
from sparse_rep.kernels import ops
from sparse_rep.saes.coder import Dictionary
from sparse_rep.saes.geometric_median import geometric_median


@final
class TopK(Dictionary):
    """x_hat = W_dec^T TopK(ReLU(W_enc (x - b_dec) + b_enc)) + b_dec, atoms of unit norm.

    Activations are divided by `scale` (their root-mean-square norm over sqrt(d), estimated once) before the first and
    multiplied by it after the last operation, so that one learning rate suits every model. Codes carry the scale: they are
    in units of the activations themselves.
    """

    def __init__(self, config: TopKConfig, d_in: int, backend: ops.Backend = "auto") -> None:
        super().__init__()
        if config.k > config.n_latents:
            raise ConfigError(f"k={config.k} exceeds n_latents={config.n_latents}; lower k or widen the dictionary")
        self.config = config
        self.backend: ops.Backend = backend
        self.d_in = self.d_out = d_in
        self.n_latents, self.k = config.n_latents, config.k
        self.k_aux = min(config.k_aux or d_in // 2, config.n_latents)
        self.W_enc = nn.Parameter(torch.zeros(config.n_latents, d_in))
        self.b_enc = nn.Parameter(torch.zeros(config.n_latents))
        self.W_dec = nn.Parameter(torch.zeros(config.n_latents, d_in))
        self.b_dec = nn.Parameter(torch.zeros(d_in))
        self.scale: Tensor
        self.tokens_since_fired: Tensor
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("tokens_since_fired", torch.zeros(config.n_latents, dtype=torch.int64))

    @property
    def atoms(self) -> Float[Tensor, "m d_out"]:
        return self.W_dec

    @torch.no_grad()
    def initialise(self, sample: Float[Tensor, "n d"], generator: torch.Generator) -> None:
        """Scale and b_dec from data; atoms uniform on the sphere; the encoder starts as their transpose."""
        self.scale.copy_(sample.norm(dim=-1).square().mean().sqrt() / self.d_in**0.5)
        atoms = torch.randn(self.W_dec.shape, generator=generator)
        self.W_dec.copy_(atoms / atoms.norm(dim=-1, keepdim=True))
        self.W_enc.copy_(self.W_dec)
        self.b_dec.copy_(geometric_median(sample / self.scale))

    def encode(self, batch: ActivationBatch | Tensor) -> SparseCodes:
        return self._encode(ActivationBatch.wrap(batch).x, check=False)

    def decode(self, codes: SparseCodes) -> Float[Tensor, "n d_out"]:
        scaled = ops.sparse_decode(
            codes.values / self.scale, codes.indices, self.W_dec, self.b_dec, backend=self.backend
        )
        return scaled * self.scale

    def reconstruct(self, batch: ActivationBatch | Tensor, codes: SparseCodes) -> Float[Tensor, "n d_out"]:
        return self.decode(codes)

    def loss(self, batch: ActivationBatch) -> dict[str, Tensor]:
        """Normalised MSE (1 = predicting b_dec's worth of nothing) plus the weighted AuxK loss, both in scaled units."""
        x = batch.x / self.scale
        values, indices = ops.topk_encode(
            x, self.W_enc, self.b_enc, self.k, self.b_dec, backend=self.backend, check=False
        )
        x_hat = ops.sparse_decode(values, indices, self.W_dec, self.b_dec, backend=self.backend)
        error = x - x_hat
        total = (x - x.mean(0)).square().sum().clamp(min=1e-12)
        fvu = error.square().sum() / total
        self._note_fired(indices, len(x))
        losses = {"fvu": fvu, "l0": (indices >= 0).float().sum(-1).mean(), "dead_share": self.dead.float().mean()}
        aux = self._aux_loss(x, error.detach())
        if aux is not None:
            losses["aux"] = aux
        losses["loss"] = fvu if aux is None else fvu + self.config.aux_coefficient * aux
        return losses

    @property
    def dead(self) -> Tensor:
        """Boolean (m): latents that no token has used for `dead_after_tokens` training tokens."""
        return self.tokens_since_fired >= self.config.dead_after_tokens

    @torch.no_grad()
    def before_step(self) -> None:
        """Remove the part of the gradient along each atom: the norm constraint would undo it, Adam would remember it."""
        if self.W_dec.grad is not None:
            along = (self.W_dec.grad * self.W_dec).sum(-1, keepdim=True)
            self.W_dec.grad.sub_(along * self.W_dec)

    @torch.no_grad()
    def after_step(self) -> None:
        self.W_dec.div_(self.W_dec.norm(dim=-1, keepdim=True).clamp(min=1e-12))

    def describe(self) -> dict[str, Any]:
        return {**self.config.model_dump(), "d_in": self.d_in}

    def _encode(self, x: Tensor, check: bool) -> SparseCodes:
        values, indices = ops.topk_encode(
            x / self.scale, self.W_enc, self.b_enc, self.k, self.b_dec, backend=self.backend, check=check
        )
        return SparseCodes(values * self.scale, indices, self.n_latents)

    @torch.no_grad()
    def _note_fired(self, indices: Tensor, n_tokens: int) -> None:
        self.tokens_since_fired += n_tokens
        self.tokens_since_fired[indices[indices >= 0].long()] = 0

    def _aux_loss(self, x: Tensor, error: Tensor) -> Tensor | None:
        """How badly the k_aux strongest dead latents predict the error of the live ones (Gao et al., A.2).

        Only the dead rows of the encoder are multiplied, so its cost is in proportion to what is dead. The encoder gets
        its gradient too: dead latents learn to fire where the error is.
        """
        if self.config.aux_coefficient == 0:
            return None
        dead = self.dead
        n_dead = int(dead.sum())
        if n_dead == 0:
            return None
        values, indices = ops.topk_encode_among(
            x, self.W_enc, self.b_enc, self.k_aux, dead, self.b_dec, backend=self.backend, check=False
        )
        error_hat = ops.sparse_decode(values, indices, self.W_dec, backend=self.backend)
        # With few dead latents the loss is scaled down: they cannot be expected to explain the whole error.
        strength = min(n_dead / self.k_aux, 1.0)
        return strength * (error - error_hat).square().sum() / error.square().sum().clamp(min=1e-12)
