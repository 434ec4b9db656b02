"""One loop for every coder. One stream of activations may feed many coders at once.

The loop reads from top to bottom: resume, then for each step a batch, a loss, a projected gradient, a step, a constraint.
A checkpoint holds everything the rest of the run depends on, so on a CPU a run that was killed and resumed ends with the
weights of the one that was not.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from sparse_rep.activations import ActivationBatch, ActivationSource, ShuffleBuffer
from sparse_rep.errors import DataError
from sparse_rep.saes.coder import SparseCoder

CHECKPOINT_VERSION = 1

OnMetrics = Callable[[str, int, dict[str, float]], None]
"""Called with the coder's name, the step (from 1) and its named scalars."""

INITIAL_SAMPLE = 8192
"""Rows on which data-dependent starts (scale, geometric median) are estimated."""


class TrainSettings(Protocol):
    """The fields of `TrainConfig` that the loop reads."""

    n_tokens: int
    batch_tokens: int
    lr: float
    warmup_share: float
    decay_share: float
    buffer_tokens: int
    seed: int
    checkpoint_seconds: float
    log_every: int


def learning_rate(step: int, n_steps: int, peak: float, warmup_share: float, decay_share: float) -> float:
    """Linear rise over the first share of the steps, flat, linear fall to 0 over the last. `step` counts from 0."""
    warmup, decay = warmup_share * n_steps, decay_share * n_steps
    rise = (step + 1) / warmup if warmup > 0 else 1.0
    fall = (n_steps - step) / decay if decay > 0 else 1.0
    return peak * min(1.0, rise, fall)


def train(
    coders: Mapping[str, SparseCoder],
    source: ActivationSource,
    settings: TrainSettings,
    *,
    device: torch.device | str = "cpu",
    checkpoint: Path | None = None,
    identity: str = "",
    on_metrics: OnMetrics = lambda name, step, values: None,
    on_step: Callable[[int, int], None] = lambda done, tokens: None,
    on_checkpoint: Callable[[int], None] = lambda step: None,
) -> None:
    """Train every coder in place on the same batches.

    `checkpoint` is written at most every `settings.checkpoint_seconds` and resumed from when it is there; `identity` (a
    config digest) guards against resuming another run's. `on_step` gets the step and its tokens, `on_checkpoint` the step
    whose state is safely on disk. Raises DataError for a checkpoint of another run, ValueError for an empty source and
    FloatingPointError once a loss is no longer finite.
    """
    loop = _Loop(coders, source, settings, torch.device(device), identity)
    if checkpoint is not None and checkpoint.exists():
        loop.load(checkpoint)
    else:
        loop.initialise()
    on_step(loop.step, loop.step * settings.batch_tokens)
    saved_at = time.monotonic()
    while loop.step < loop.n_steps:
        batch = next(loop.buffer).to(loop.device, torch.float32)
        for name in coders:
            values = loop.advance(name, batch)
            if (loop.step + 1) % settings.log_every == 0 or loop.step + 1 == loop.n_steps:
                on_metrics(name, loop.step + 1, _finite(name, loop.step + 1, values))
        loop.step += 1
        on_step(loop.step, len(batch))
        if checkpoint is not None and (
            time.monotonic() - saved_at >= settings.checkpoint_seconds or loop.step == loop.n_steps
        ):
            loop.save(checkpoint)
            on_checkpoint(loop.step)
            saved_at = time.monotonic()


class _Loop:
    """The state of a training run: what a checkpoint holds."""

    def __init__(
        self,
        coders: Mapping[str, SparseCoder],
        source: ActivationSource,
        settings: TrainSettings,
        device: torch.device,
        identity: str,
    ) -> None:
        self.coders, self.settings, self.device, self.identity = coders, settings, device, identity
        self.n_steps = max(settings.n_tokens // settings.batch_tokens, 1)
        self.step = 0
        buffer_rows = max(settings.buffer_tokens, settings.batch_tokens)
        self.buffer = ShuffleBuffer(source, settings.batch_tokens, buffer_rows, settings.seed)
        for coder in coders.values():
            coder.to(device).train()
        # Adam's epsilon is far below any gradient here: losses are normalised. beta2=0.999 as in Gao et al., B.1.
        self.optimisers = {
            name: torch.optim.Adam(coder.parameters(), lr=settings.lr, eps=1e-8, fused=True)
            for name, coder in coders.items()
        }

    def initialise(self) -> None:
        """Data-dependent starts, each coder from its own generator so that adding one changes no other."""
        sample = self.buffer.peek(INITIAL_SAMPLE).to(self.device, torch.float32)
        for coder in self.coders.values():
            coder.initialise(sample, torch.Generator().manual_seed(self.settings.seed))

    def advance(self, name: str, batch: ActivationBatch) -> dict[str, torch.Tensor]:
        """One optimiser step of one coder."""
        coder, optimiser, s = self.coders[name], self.optimisers[name], self.settings
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(self.step, self.n_steps, s.lr, s.warmup_share, s.decay_share)
        optimiser.zero_grad(set_to_none=True)
        losses = coder.loss(batch)
        losses["loss"].backward()
        coder.before_step()
        # Losses are shares of the variance, so one bound fits all; it only bites in the first steps.
        torch.nn.utils.clip_grad_norm_(coder.parameters(), 1.0)
        optimiser.step()
        coder.after_step()
        return {key: value.detach() for key, value in losses.items()}

    def save(self, path: Path) -> None:
        """Atomic: a reader finds the old checkpoint or the new one, never part of one."""
        state = {
            "version": CHECKPOINT_VERSION,
            "identity": self.identity,
            "step": self.step,
            "coders": {name: coder.state_dict() for name, coder in self.coders.items()},
            "optimisers": {name: optimiser.state_dict() for name, optimiser in self.optimisers.items()},
            "buffer": self.buffer.state_dict(),
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".tmp")
        with part.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)

    def load(self, path: Path) -> None:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        if state["version"] != CHECKPOINT_VERSION or state["identity"] != self.identity:
            raise DataError(f"{path} belongs to another run or version; remove it to start this run afresh")
        for name, coder in self.coders.items():
            coder.load_state_dict(state["coders"][name])
            self.optimisers[name].load_state_dict(state["optimisers"][name])
        self.buffer.load_state_dict(state["buffer"])
        self.step = state["step"]


def _finite(name: str, step: int, values: dict[str, torch.Tensor]) -> dict[str, float]:
    scalars = {key: float(value) for key, value in values.items()}
    if any(value != value or abs(value) == float("inf") for value in scalars.values()):
        raise FloatingPointError(f"{name}: a loss stopped being finite at or before step {step}: {scalars}")
    return scalars
