"""JumpReLU dictionary: a learnt threshold a latent, trained by straight-through gradients.

With H the step function, K the rectangle of width 1 and e the bandwidth (Rajamanoharan et al. 2024b, arXiv 2407.14435):

    f = pre H(pre - t)        df/dt := -(t / e) K((pre - t) / e)        dH/dt := -(1 / e) K((pre - t) / e)
"""

from __future__ import annotations

from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sparse_rep.activations import ActivationBatch
from sparse_rep.codes import SparseCodes
from sparse_rep.config_dictionary import JumpReLUConfig
from sparse_rep.kernels import ops
from sparse_rep.saes.encoder import EncoderDictionary
from sparse_rep.saes.losses import active_share, mean_squared_norm, rectifier_gain, variance
from sparse_rep.saes.penalty import PenaltyWeight
from sparse_rep.saes.registry import coder_of

UNTARGETED_THRESHOLD = 0.01
THRESHOLD_SAMPLE = 1024
"""Rows on which the first threshold is estimated."""


@final
@coder_of(JumpReLUConfig)
class JumpReLU(EncoderDictionary):
    """f = pre where pre > threshold, else 0. The threshold itself is trained, not its logarithm, and kept from below 0.

    (The paper trains the logarithm; Adam then moves a small threshold by about lr a step in relative terms, and it hardly
    leaves its start in short runs.)
    """

    def __init__(
        self, config: JumpReLUConfig, d_in: int, backend: ops.Backend = "auto", d_out: int | None = None
    ) -> None:
        super().__init__(config, d_in, backend, d_out)
        self._config = config
        first = UNTARGETED_THRESHOLD if config.initial_threshold is None else config.initial_threshold
        self.threshold = nn.Parameter(torch.full((config.n_latents,), first))
        self.penalty = PenaltyWeight(config)

    @torch.no_grad()
    def initialise(self, sample: ActivationBatch | Tensor, generator: torch.Generator) -> None:
        """As every dictionary; with a target and no threshold given, one that lets through as many latents as wanted.

        (Ours: from near 0 a threshold needs thousands of steps to get where it does anything, and short runs have fewer.)
        """
        super().initialise(sample, generator)
        target = self.config.target_l0
        if self.config.initial_threshold is None and target is not None:
            x, _ = self.scaled(ActivationBatch.wrap(sample).rows(slice(None, THRESHOLD_SAMPLE)))
            pre = self.pre_activations(x).flatten()
            self.threshold.fill_(pre.topk(min(max(int(target * len(x)), 1), len(pre))).values[-1].clamp(min=0))

    @property
    def config(self) -> JumpReLUConfig:
        return self._config

    def encode(self, batch: ActivationBatch | Tensor) -> SparseCodes:
        return self.encode_above(ActivationBatch.wrap(batch).x / self.scale, self.threshold)

    def loss(self, batch: ActivationBatch) -> dict[str, Tensor]:
        """(mean ||error||^2 + weight * sparsity + pull) / variance, where sparsity and pull are means over tokens of

        step  sum_i H(pre_i - t_i); no pull (arXiv 2407.14435)
        tanh  sum_i tanh(c f_i); pull = coefficient * sum_i ReLU(t_i - pre_i) (Conerly et al., January 2025 update; atoms are
              of unit norm here)
        """
        x, target = self.scaled(batch)
        config, pre = self.config, self.pre_activations(x)
        codes = jump_relu(pre, self.threshold, config.bandwidth, to_input=config.variant == "tanh")
        spread = variance(target)
        fvu = mean_squared_norm(target - self.predict_dense(codes, x)) / spread
        if config.variant == "step":
            count = step(pre, self.threshold, config.bandwidth).sum(-1).mean()
        else:
            count = torch.tanh(config.tanh_scale * codes).sum(-1).mean()
        weight = self.penalty.now(self.firing.tokens_seen)
        active = codes.detach() > 0
        losses = {
            "fvu": fvu,
            "sparsity": weight * count / spread,
            "penalty": weight,
            "l0": active_share(active),
        }
        losses["loss"] = fvu + losses["sparsity"]
        if config.variant == "tanh" and config.pre_act_coefficient > 0:
            below = (self.threshold - pre).relu().sum(-1).mean()
            losses["pull"] = config.pre_act_coefficient * below / spread
            losses["loss"] = losses["loss"] + losses["pull"]
        self.firing.note_mask(active.any(0), len(x))
        self.penalty.steer(losses["l0"], self.firing.tokens_seen)
        losses["dead_share"] = self.dead.float().mean()
        return losses

    @torch.no_grad()
    def after_step(self) -> None:
        super().after_step()
        self.threshold.clamp_(min=0)

    def _first_gain(self) -> float:
        starts_sparse = self.config.initial_threshold is None and self.config.target_l0 is not None
        return 1.0 if starts_sparse else rectifier_gain(self.n_latents, self.d_in)

    def _in_code_units(self) -> tuple[Tensor, ...]:
        return (self.threshold,)


def jump_relu(
    pre: Float[Tensor, "n m"], threshold: Float[Tensor, " m"], bandwidth: float, *, to_input: bool = False
) -> Float[Tensor, "n m"]:
    """`pre` where it exceeds its threshold. With `to_input` the straight-through gradient reaches `pre` too (Conerly et al.)."""
    return _JumpReLU.apply(pre, threshold, bandwidth, to_input)  # pyright: ignore[reportReturnType]


def step(pre: Float[Tensor, "n m"], threshold: Float[Tensor, " m"], bandwidth: float) -> Float[Tensor, "n m"]:
    """1 where `pre` exceeds its threshold; the gradient goes to the threshold alone."""
    return _Step.apply(pre, threshold, bandwidth)  # pyright: ignore[reportReturnType]


def _near(pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
    """K((pre - threshold) / bandwidth): the entries within half a bandwidth of their threshold."""
    return ((pre - threshold).abs() < bandwidth / 2).to(pre.dtype)


class _JumpReLU(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(pre: Tensor, threshold: Tensor, bandwidth: float, to_input: bool) -> Tensor:
        return torch.where(pre > threshold, pre, 0)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pre, threshold, ctx.bandwidth, ctx.to_input = inputs
        ctx.save_for_backward(pre, threshold)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        pre, threshold = ctx.saved_tensors
        through = grads[0] * _near(pre, threshold, ctx.bandwidth) * threshold / ctx.bandwidth
        direct = torch.where(pre > threshold, grads[0], 0)
        return direct + through if ctx.to_input else direct, -through.sum(0), None, None


class _Step(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        return (pre > threshold).to(pre.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pre, threshold, ctx.bandwidth = inputs
        ctx.save_for_backward(pre, threshold)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        pre, threshold = ctx.saved_tensors
        return None, -(grads[0] * _near(pre, threshold, ctx.bandwidth)).sum(0) / ctx.bandwidth, None
