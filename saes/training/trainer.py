"""One loop for every coder. One stream of activations may feed many coders at once.

The loop reads from top to bottom: resume or start, then for each step a batch and every bank's step. A checkpoint holds
everything the rest of the run depends on, so on a CPU a run that was killed and resumed ends with the weights of the one that
was not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from sparse_rep.activations import ActivationSource, ShuffleBuffer
from sparse_rep.errors import ConfigError, DataError
from sparse_rep.saes.coder import SparseCoder
from sparse_rep.saes.ranks import current
from sparse_rep.saes.training.bank import Member, Schedule
from sparse_rep.saes.training.checkpoints import load_checkpoint, save_checkpoint
from sparse_rep.saes.training.grouping import assemble
from sparse_rep.saes.training.memory import require_room
from sparse_rep.saes.training.sharded_bank import ShardedTopKBank

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


def train(
    coders: Mapping[str, SparseCoder],
    source: ActivationSource,
    settings: TrainSettings,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    rates: Mapping[str, float] | None = None,
    seeds: Mapping[str, int] | None = None,
    share_latents: bool = False,
    checkpoint: Path | None = None,
    identity: Mapping[str, Any] | None = None,
    on_metrics: OnMetrics = lambda name, step, values: None,
    on_step: Callable[[int, int], None] = lambda done, tokens: None,
    on_checkpoint: Callable[[int], None] = lambda step: None,
) -> None:
    """Train every coder in place on the same batches.

    `dtype` is that of products; weights, moments and losses are fp32 whatever it is. `rates` and `seeds` give a coder its own
    peak learning rate and its own initial weights; the stream of batches is `settings.seed`'s for all.

    Within `ranks.together` every process calls this with the same arguments; the coders end equal on all of them. Each takes
    its share of every batch's tokens or, with `share_latents`, of a coder's latents.

    `checkpoint` is written at most every `settings.checkpoint_seconds` and resumed from when it is there; `identity` (what the
    run is, by name) guards against resuming another's. `on_step` gets the step and its tokens, `on_checkpoint` the step whose
    state is safely on disk. Raises ConfigError where memory will not do, DataError for a checkpoint of another run, for
    activations that are not finite and for a loss that stops being so (the last good checkpoint stays), ValueError for an
    empty source.
    """
    state = load_checkpoint(checkpoint, identity or {}) if checkpoint is not None and checkpoint.exists() else None
    loop = _Loop(
        coders,
        source,
        settings,
        torch.device(device),
        dtype,
        rates or {},
        seeds or {},
        share_latents,
        fresh=state is None,
    )
    if state is not None:
        loop.load_state_dict(state)
        del state
    on_step(loop.step, loop.step * settings.batch_tokens)
    saved_at = time.monotonic()
    while loop.step < loop.n_steps:
        n_tokens = loop.advance()
        if loop.step % settings.log_every == 0 or loop.step == loop.n_steps:
            for name, values in loop.losses().items():
                on_metrics(name, loop.step, values)
        on_step(loop.step, n_tokens)
        if checkpoint is not None and loop.ranks.agreed(
            time.monotonic() - saved_at >= settings.checkpoint_seconds or loop.step == loop.n_steps, loop.device
        ):
            loop.losses()  # raises before a checkpoint holds what is not finite
            state = loop.state_dict()
            if loop.ranks.first:
                save_checkpoint(checkpoint, identity or {}, state)
                on_checkpoint(loop.step)
            saved_at = time.monotonic()
    for bank in loop.banks:
        bank.finish()


class _Loop:
    """The state of a training run: what a checkpoint holds."""

    def __init__(
        self,
        coders: Mapping[str, SparseCoder],
        source: ActivationSource,
        settings: TrainSettings,
        device: torch.device,
        dtype: torch.dtype,
        rates: Mapping[str, float],
        seeds: Mapping[str, int],
        share_latents: bool,
        fresh: bool,
    ) -> None:
        self.settings, self.device, self.ranks = settings, device, current()
        self.shares_tokens = self.ranks.world > 1 and not share_latents
        if self.shares_tokens and settings.batch_tokens % self.ranks.world:
            raise ConfigError(
                f"batch_tokens={settings.batch_tokens} cannot be shared equally by {self.ranks.world} processes; "
                f"make it a multiple of {self.ranks.world}"
            )
        self.n_steps = max(settings.n_tokens // settings.batch_tokens, 1)
        self.step = 0
        members = {name: Member(coder, rates.get(name, settings.lr)) for name, coder in coders.items()}
        if not share_latents:
            require_room(members, device, settings.batch_tokens)
        self.buffer = ShuffleBuffer(
            source, settings.batch_tokens, max(settings.buffer_tokens, settings.batch_tokens), settings.seed
        )
        home = torch.device("cpu") if share_latents else device  # whole, it may not fit the device
        for coder in coders.values():
            coder.to(home).train()
        if fresh:
            sample = self.buffer.peek(INITIAL_SAMPLE).to(home, torch.float32)
            for name, coder in coders.items():
                # Each from its own generator, so that adding a coder changes no other.
                coder.initialise(sample, torch.Generator().manual_seed(seeds.get(name, settings.seed)))
        schedule = Schedule(self.n_steps, settings.warmup_share, settings.decay_share)
        if share_latents:
            self.banks = [ShardedTopKBank({name: m}, schedule, dtype, device) for name, m in members.items()]
        else:
            self.banks = assemble(members, schedule, device, dtype)

    def advance(self) -> int:
        """One optimiser step of every coder; how many tokens it took. Each rank takes its part of the same batch."""
        batch = next(self.buffer)
        share, rank = (len(batch) // self.ranks.world, self.ranks.rank) if self.shares_tokens else (len(batch), 0)
        mine = batch.rows(slice(rank * share, (rank + 1) * share)).to(self.device, torch.float32)
        for bank in self.banks:
            bank.advance(mine, self.step)
        self.step += 1
        return len(batch)

    def losses(self) -> dict[str, dict[str, float]]:
        """Of the last step, by coder. Waits for the device. Raises DataError where one is not finite."""
        found = {}
        for bank in self.banks:
            for name, values in bank.losses().items():
                scalars = dict(zip(values, torch.stack([v.float() for v in values.values()]).tolist(), strict=True))
                if any(value != value or abs(value) == float("inf") for value in scalars.values()):
                    raise DataError(
                        f"{name}: a loss stopped being finite at or before step {self.step}: {scalars}; lower its lr. "
                        f"The last good checkpoint is kept"
                    )
                found[name] = scalars
        return found

    def state_dict(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "banks": [bank.state_dict() for bank in self.banks],
            "buffer": self.buffer.state_dict(),
            "rng": torch.get_rng_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for bank, saved in zip(self.banks, state["banks"], strict=True):
            bank.load_state_dict(saved)
        self.buffer.load_state_dict(state["buffer"])
        torch.set_rng_state(state["rng"])
        self.step = state["step"]
