"""Dictionaries of one shape, one a seed, trained side by side as batched products.

A toy of 20 latents costs launches, not arithmetic: ten seeds at once take little longer than one. Each population gives the
codes and losses that the coder of its name in `sparse_rep.saes` would give each seed alone; seeds never meet, since the sum of
their losses has for each the gradient of its own.

Letters in shapes: s seeds, otherwise as in codes.py.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sparse_rep.evaluation.fidelity.streams import PREFIXES, WEIGHTS, generator
from sparse_rep.saes.unit_rows import random_unit_rows


class Population(nn.Module, ABC):
    """What training and scoring need to know of s dictionaries of m latents in d dimensions."""

    @property
    @abstractmethod
    def atoms(self) -> Float[Tensor, "s m d"]: ...

    @abstractmethod
    def losses(self, x: Float[Tensor, "s n d"], step: int) -> Float[Tensor, " s"]:
        """One loss a seed, and whatever state a training step moves."""

    @abstractmethod
    def encode(self, x: Float[Tensor, "s n d"]) -> Float[Tensor, "s n m"]:
        """Codes as inference gives them; dense, since m is a toy's."""

    @abstractmethod
    def decode(self, codes: Float[Tensor, "s n m"]) -> Float[Tensor, "s n d"]: ...

    def before_step(self) -> None:
        """Projections of the gradient, before each optimiser step."""
        return

    def after_step(self) -> None:
        """Constraints, after each optimiser step."""
        return


def initial_atoms(m: int, d: int, seeds: Sequence[int]) -> Float[Tensor, "s m d"]:
    """Directions uniform on the sphere, from each seed's own generator."""
    return torch.stack([random_unit_rows(m, d, generator(seed, WEIGHTS)) for seed in seeds])


def squared_error(x: Float[Tensor, "s n d"], x_hat: Float[Tensor, "s n d"]) -> Float[Tensor, " s"]:
    """Mean over tokens of ||x - x_hat||^2."""
    return (x - x_hat).square().sum(-1).mean(-1)


class Encoders(nn.Module):
    """The parameters of s affine encoders and decoders; the encoder starts as the decoder's transpose."""

    def __init__(self, atoms: Float[Tensor, "s m d"]) -> None:
        super().__init__()
        s, m, d = atoms.shape
        self.W_enc, self.W_dec = nn.Parameter(atoms.clone()), nn.Parameter(atoms.clone())
        self.b_enc, self.b_dec = nn.Parameter(torch.zeros(s, 1, m)), nn.Parameter(torch.zeros(s, 1, d))

    def pre(self, x: Float[Tensor, "s n d"]) -> Float[Tensor, "s n m"]:
        return x @ self.W_enc.mT + self.b_enc

    def decode(self, codes: Float[Tensor, "s n m"]) -> Float[Tensor, "s n d"]:
        return codes @ self.W_dec + self.b_dec


class SparsityControl(nn.Module):
    """The L1 weight of each seed, steered to a mean L0: up by a factor 1 + rate above the target, down below it.

    It rises linearly over the warm-up and moves only after it (appendix B.1; the reference code's start, rate and share).
    """

    START, RATE, WARMUP_SHARE = 0.1, 3e-4, 0.2

    def __init__(self, n_seeds: int, target: float, n_steps: int) -> None:
        super().__init__()
        self.target, self.warmup = target, self.WARMUP_SHARE * n_steps
        self.weight: Tensor
        self.register_buffer("weight", torch.full((n_seeds,), self.START))

    @torch.no_grad()
    def weights(self, codes: Float[Tensor, "s n m"], step: int) -> Float[Tensor, " s"]:
        if step > self.warmup:
            above = (codes > 0).sum(-1).float().mean(-1) >= self.target
            self.weight *= torch.where(above, 1 + self.RATE, 1 - self.RATE)
        return self.weight * min((step + 1) / self.warmup, 1.0)


@final
class StandardPopulation(Population):
    """ReLU autoencoders with an L1 penalty on their codes times the norms of their atoms."""

    def __init__(self, atoms: Float[Tensor, "s m d"], l0: float, n_steps: int, scale: float = 1.0) -> None:
        super().__init__()
        self.encoders, self.control, self.scale = Encoders(atoms), SparsityControl(len(atoms), l0, n_steps), scale

    @property
    def atoms(self) -> Float[Tensor, "s m d"]:
        return self.encoders.W_dec

    def losses(self, x: Float[Tensor, "s n d"], step: int) -> Float[Tensor, " s"]:
        x = x / self.scale
        codes = self.encoders.pre(x).relu()
        penalty = (codes.mean(1) * self.atoms.norm(dim=-1)).sum(-1)
        return squared_error(x, self.encoders.decode(codes)) + self.control.weights(codes, step) * penalty

    def encode(self, x: Float[Tensor, "s n d"]) -> Float[Tensor, "s n m"]:
        return self.encoders.pre(x / self.scale).relu()

    def decode(self, codes: Float[Tensor, "s n m"]) -> Float[Tensor, "s n d"]:
        return self.encoders.decode(codes) * self.scale


@final
class MatryoshkaPopulation(Population):
    """The same with five nested dictionaries, each of which reconstructs by itself (Bussmann et al. 2025, as in B.1).

    Prefix lengths are drawn anew each step, l < m with weight sqrt(l) - sqrt(l - 1), the last being m. Latents stand in the
    order of their running mean squares, so that a prefix holds those that explain most.
    """

    N_PREFIXES, MEMORY, DRAWN = 5, 0.95, 512

    def __init__(
        self, atoms: Float[Tensor, "s m d"], l0: float, n_steps: int, seeds: Sequence[int], scale: float = 1.0
    ) -> None:
        super().__init__()
        self.encoders, self.control, self.scale = Encoders(atoms), SparsityControl(len(atoms), l0, n_steps), scale
        self.seeds, self.m = tuple(seeds), atoms.shape[1]
        self.energy: Tensor
        self.register_buffer("energy", torch.zeros(atoms.shape[:2]))
        self._drawn: tuple[int, Tensor] | None = None

    @property
    def atoms(self) -> Float[Tensor, "s m d"]:
        return self.encoders.W_dec

    def losses(self, x: Float[Tensor, "s n d"], step: int) -> Float[Tensor, " s"]:
        x = x / self.scale
        codes = self.encoders.pre(x).relu()
        weighted = codes * self.atoms.norm(dim=-1)[:, None]
        inside = self._inside(self.prefixes(step))
        x_hat = (codes[:, None] * inside[:, :, None]) @ self.encoders.W_dec[:, None] + self.encoders.b_dec[:, None]
        error = (x[:, None] - x_hat).square().sum(-1).mean((1, 2))
        # A latent is paid for once a prefix that holds it, as its reconstruction counts once each.
        penalty = (weighted.mean(1) * inside.mean(1)).sum(-1)
        with torch.no_grad():
            self.energy.lerp_(weighted.square().mean(1), 1 - self.MEMORY)
        return error + self.control.weights(codes, step) * penalty

    def encode(self, x: Float[Tensor, "s n d"]) -> Float[Tensor, "s n m"]:
        return self.encoders.pre(x / self.scale).relu()

    def decode(self, codes: Float[Tensor, "s n m"]) -> Float[Tensor, "s n d"]:
        return self.encoders.decode(codes) * self.scale

    def prefixes(self, step: int) -> Tensor:
        """(s, 5) lengths of a step's prefixes, each seed's drawn from its own generator."""
        block, at = divmod(step, self.DRAWN)
        if self._drawn is None or self._drawn[0] != block:
            lengths = torch.arange(self.m).sqrt()
            weights = lengths.diff().expand(self.DRAWN, -1)
            drawn = [
                torch.multinomial(weights, self.N_PREFIXES - 1, generator=generator(seed, PREFIXES, block))
                for seed in self.seeds
            ]
            lengths = torch.nn.functional.pad(torch.stack(drawn) + 1, (0, 1), value=self.m)
            self._drawn = block, lengths
        return self._drawn[1][:, at]

    def _inside(self, prefixes: Tensor) -> Float[Tensor, "s p m"]:
        rank = self.energy.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
        return (rank[:, None] < prefixes[:, :, None]).float()


@final
class BatchTopKPopulation(Population):
    """The l0 * n largest codes of a batch (Bussmann et al. 2024, arXiv 2412.06410); at inference, those over a threshold.

    `l0` starts high, so that every latent learns something, and falls to its target after `settle` steps (B.1).
    """

    MEMORY = 0.9
    """Of the running threshold: the least value that a batch kept."""

    def __init__(self, atoms: Float[Tensor, "s m d"], l0: float, first_l0: float, settle: int) -> None:
        super().__init__()
        self.encoders, self.l0, self.first_l0, self.settle = Encoders(atoms), l0, first_l0, settle
        self.threshold: Tensor
        self.register_buffer("threshold", torch.zeros(len(atoms)))

    @property
    def atoms(self) -> Float[Tensor, "s m d"]:
        return self.encoders.W_dec

    def losses(self, x: Float[Tensor, "s n d"], step: int) -> Float[Tensor, " s"]:
        pre = self.encoders.pre(x).relu()
        l0 = self.first_l0 if step < self.settle else self.l0
        values, index = pre.flatten(1).topk(int(l0 * x.shape[1]) + 1)
        codes = torch.zeros_like(pre).flatten(1).scatter(1, index, values).view_as(pre)
        with torch.no_grad():
            least = values[:, -1]
            self.threshold.copy_(least if step == 0 else self.threshold.lerp(least, 1 - self.MEMORY))
        return squared_error(x, self.encoders.decode(codes))

    def encode(self, x: Float[Tensor, "s n d"]) -> Float[Tensor, "s n m"]:
        pre = self.encoders.pre(x).relu()
        return torch.where(pre >= self.threshold[:, None, None], pre, 0)

    def decode(self, codes: Float[Tensor, "s n m"]) -> Float[Tensor, "s n d"]:
        return self.encoders.decode(codes)
