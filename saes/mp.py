"""MP-SAE: a dictionary whose encoder is matching pursuit on its own atoms (Costa et al. 2025, arXiv 2506.03093)."""

from __future__ import annotations

import copy
import math
from typing import Any, Self, final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sparse_rep.activations import ActivationBatch
from sparse_rep.codes import SparseCodes
from sparse_rep.config_dictionary import MPConfig
from sparse_rep.kernels import ops
from sparse_rep.saes.auxk import reach
from sparse_rep.saes.coder import Dictionary
from sparse_rep.saes.firing import FiringCounter
from sparse_rep.saes.geometric_median import geometric_median
from sparse_rep.saes.losses import active_share, mean_squared_norm, variance
from sparse_rep.saes.ranks import current
from sparse_rep.saes.registry import coder_of
from sparse_rep.saes.scale import rms_scale
from sparse_rep.saes.shapes import may_ask
from sparse_rep.saes.unit_rows import random_unit_rows, remove_radial_gradient, renormalise


@final
@coder_of(MPConfig)
class MatchingPursuit(Dictionary):
    """r_0 = x / scale - b_dec; each step takes the atom D_j that r correlates with most, v = <D_j, r>, and r <- r - v D_j.

    Encoder and decoder are one matrix D, its rows kept at unit norm after every step: only then is each residual
    orthogonal to the last atom and shorter than the one before by exactly v^2 (Prop. 3.1, C.2). An atom may be taken again.
    A token stops when no correlation is positive or its residual is within the tolerance. Both k and the tolerance may be
    others at inference than in training.
    """

    def __init__(self, config: MPConfig, d_in: int, backend: ops.Backend = "auto") -> None:
        super().__init__()
        self.config = config
        self.backend: ops.Backend = backend
        self.d_in = self.d_out = d_in
        self.n_latents, self.k = config.n_latents, config.k
        self.W_dec = nn.Parameter(torch.zeros(config.n_latents, d_in))
        self.b_dec = nn.Parameter(torch.zeros(d_in))
        self.firing = FiringCounter(config.n_latents, config.dead_after_tokens)
        self.scale: Tensor
        self.register_buffer("scale", torch.ones(()))
        self.tolerance, self.stop_on_repeat = config.tolerance, config.stop_on_repeat
        # Scaled activations have root-mean-square norm sqrt(d); a folded copy has that of the activations.
        self.typical_norm = math.sqrt(d_in)
        self._gram: tuple[tuple[Any, ...], Tensor] | None = None

    @property
    def atoms(self) -> Float[Tensor, "m d_out"]:
        return self.W_dec

    @property
    def dead(self) -> Tensor:
        return self.firing.dead

    @torch.no_grad()
    def initialise(self, sample: ActivationBatch | Tensor, generator: torch.Generator) -> None:
        """Scale and b_dec (geometric median) from data; atoms uniform on the sphere."""
        x = ActivationBatch.wrap(sample).x
        self.scale.copy_(rms_scale(x))
        self.W_dec.copy_(random_unit_rows(self.n_latents, self.d_in, generator))
        self.b_dec.copy_(geometric_median(x / self.scale))

    def encode(
        self, batch: ActivationBatch | Tensor, k: int | None = None, tolerance: float | None = None
    ) -> SparseCodes:
        """k steps a token, fewer where its residual's norm is within `tolerance` times the typical norm of activations.

        Slots are in the order of selection: any prefix is the code for fewer steps. An atom taken twice has two slots.
        """
        x = ActivationBatch.wrap(batch).x
        gram = None if torch.is_grad_enabled() and self.W_dec.requires_grad else self._gram_matrix()
        values, indices = self._pursue(x / self.scale, k or self.k, tolerance, gram)
        if self.stop_on_repeat:
            going = _until_repeat(indices)
            values, indices = values * going, indices.where(going, -1)
        return SparseCodes(values * self.scale, indices, self.n_latents)

    def decode(self, codes: SparseCodes) -> Float[Tensor, "n d_out"]:
        scaled = ops.sparse_decode(
            codes.values / self.scale, codes.indices, self.W_dec, self.b_dec, backend=self.backend
        )
        return scaled * self.scale

    def reconstruct(self, batch: ActivationBatch | Tensor, codes: SparseCodes) -> Float[Tensor, "n d_out"]:
        return self.decode(codes)

    def loss(self, batch: ActivationBatch) -> dict[str, Tensor]:
        """Normalised MSE, less the weighted share of the residual that dead atoms would explain in one step more."""
        x = batch.x / self.scale
        values, indices = self._pursue(x, self.k, None, None)
        error = x - ops.sparse_decode(values, indices, self.W_dec, self.b_dec, backend=self.backend)
        fvu = mean_squared_norm(error) / variance(x)
        self.firing.note(indices, len(x))
        losses = {"loss": fvu, "fvu": fvu, "l0": _distinct(indices), "dead_share": self.dead.float().mean()}
        if self.config.revive_coefficient > 0:
            losses["revived"] = self._explained_by_dead(error.detach())
            losses["loss"] = fvu - self.config.revive_coefficient * losses["revived"]
        return losses

    @torch.no_grad()
    def before_step(self) -> None:
        remove_radial_gradient(self.W_dec)

    @torch.no_grad()
    def after_step(self) -> None:
        renormalise(self.W_dec)

    @torch.no_grad()
    def folded(self) -> Self:
        copied = copy.deepcopy(self)
        copied.b_dec.mul_(self.scale)
        copied.typical_norm *= float(self.scale)
        copied.scale.fill_(1)
        return copied

    @property
    def residual_threshold(self) -> float:
        """The norm, in the weights' units, at which a token stops."""
        return self.tolerance * self.typical_norm

    def describe(self) -> dict[str, Any]:
        return {**self.config.model_dump(), "d_in": self.d_in}

    def _pursue(self, x: Tensor, k: int, tolerance: float | None, gram: Tensor | None) -> tuple[Tensor, Tensor]:
        within = (self.tolerance if tolerance is None else tolerance) * self.typical_norm
        values, indices, _ = ops.matching_pursuit(
            x - self.b_dec, self.W_dec, k, within, gram=gram, backend=self.backend, check=False
        )
        return values, indices

    def _explained_by_dead(self, residual: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
        """Share of ||residual||^2 that the best dead atom of each token would take away; 0 where none is dead.

        After the reference code's term, the mean of <D_j, r> over tokens and dead atoms j. That mean depends on the mean
        residual alone and so moves every dead atom the same way; here each token pulls only the atom that fits it best.
        """
        if may_ask(residual) and not self.dead.any():
            return residual.new_zeros(())
        age, chosen = self.firing.tokens_since_fired.topk(reach(self.n_latents, self.d_in // 2))
        dead = (age >= self.firing.dead_after_tokens)[:, None]
        among = self.W_dec.index_select(0, chosen) * dead  # rows of live atoms are zero: they win nothing
        none = torch.zeros_like(among[:, 0])
        correlation, _ = ops.topk_encode(residual, among, none, 1, backend=self.backend, check=False)
        return correlation.square().sum() / current().mean(residual.square().sum()).clamp(min=1e-12)

    @torch.no_grad()
    def _gram_matrix(self) -> Tensor | None:
        """D D^T, kept until the atoms change; None where it would not fit and the search goes by products."""
        if self.n_latents**2 * self.W_dec.element_size() > ops.GRAM_BUDGET:
            return None
        key = (self.W_dec._version, self.W_dec.data_ptr(), self.W_dec.dtype, self.W_dec.device)
        if self._gram is None or self._gram[0] != key:
            self._gram = (key, ops.gram_matrix(self.W_dec, backend=self.backend))
        return self._gram[1]


def _distinct(indices: Int[Tensor, "n k"]) -> Float[Tensor, ""]:
    """Mean over tokens of the number of different atoms taken."""
    ordered = indices.sort(-1).values
    new = torch.ones_like(ordered, dtype=torch.bool)
    new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    return active_share(new & (ordered >= 0))


def _until_repeat(indices: Int[Tensor, "n k"]) -> Tensor:
    """Mask of the slots up to the first that names an atom again, that one included."""
    ordered, order = torch.sort(indices, dim=-1, stable=True)
    again = torch.zeros_like(ordered, dtype=torch.bool)
    again[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    repeat = torch.zeros_like(again).scatter(1, order, again).int()
    return repeat.cumsum(-1) - repeat == 0
