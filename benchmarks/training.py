"""Training steps of ours and of other libraries on one device, in one run: right first, then timed.

    python benchmarks/training.py [--only check,topk-small,topk-large,batchtopk,mp,eight,auxk | cpu] [--profile]

Checked: a step of ours equals the specification (each coder's `loss` with autograd and torch's Adam) in fp32, and 200 losses
in bf16 follow the fp32 curve. Timed: whole steps on n = 8,192 random tokens already on the device (median of 30, device
events), and the peak of memory allocated. One JSON object a line. A library that cannot be imported is said and left out.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import statistics
import sys
import time
import traceback
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from typing import Any
from unittest.mock import MagicMock

import torch

from sparse_rep.activations import ActivationBatch
from sparse_rep.config_dictionary import settings_of
from sparse_rep.saes.coder import Dictionary
from sparse_rep.saes.registry import build_coder
from sparse_rep.saes.training.bank import Bank, Member, Schedule
from sparse_rep.saes.training.grouping import assemble

N = 8192
SMALL, LARGE = (768, 24_576, 32), (2304, 65_536, 64)
Step = Callable[[], object]


def say(**row: Any) -> None:
    print(json.dumps(row), flush=True)


def tokens(n: int, d: int, seed: int = 0) -> torch.Tensor:
    """Random tokens off centre, as real ones are."""
    return (torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) + 0.5).to(DEVICE)


def coder(kind: str, d: int, m: int, k: int, seed: int = 0, dead: float = 0, **settings: Any) -> Any:
    """Initialised on the device; of a `dead` share the latents have long not fired, and hardly can."""
    made = build_coder(settings_of(kind)(n_latents=m, k=k, **settings), d)  # pyright: ignore[reportCallIssue]
    made.to(DEVICE).train().initialise(tokens(1024, d), torch.Generator().manual_seed(seed))
    with torch.no_grad():
        if kind != "mp":
            made.b_enc[: int(dead * m)] = -1e3
    made.firing.tokens_since_fired[: int(dead * m)] = 10**9
    return made


def bank(coders: list[Dictionary], dtype: torch.dtype, n_steps: int = 1000, lr: float = 1e-4) -> Any:
    members = {str(i): Member(c, lr) for i, c in enumerate(coders)}
    (made,) = assemble(members, Schedule(n_steps, 0.05, 0.2), torch.device(DEVICE), dtype)
    return made


def timed(step: Step, repeats: int = 30, warmup: int = 8) -> dict[str, float]:
    """Median milliseconds of a step and the peak GiB, tokens, weights and the first steps (before a graph) included."""
    for _ in range(warmup):
        step()
    torch.cuda.synchronize()
    times = []
    for _ in range(repeats):
        start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        step()
        stop.record()
        times.append((start, stop))
    torch.cuda.synchronize()
    ms = statistics.median(a.elapsed_time(b) for a, b in times)
    return {"ms": round(ms, 3), "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 3)}


def measure(row: str, who: str, make: Callable[[], Step], **extra: Any) -> None:
    """One row; whatever goes wrong is printed and the rest goes on."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    try:
        before = torch.cuda.memory_allocated()
        step = make()
        found = timed(step)
        found["peak_gib"] = round(found["peak_gib"] - before / 2**30, 3)
        say(row=row, who=who, **found, **extra)
    except Exception as error:
        say(row=row, who=who, error=f"{type(error).__name__}: {error}"[:300])
        traceback.print_exc()
    gc.collect()
    torch.cuda.empty_cache()


def stepper(made: Bank, x: torch.Tensor) -> Step:
    """The bank's step; `losses` once before, so that AuxK knows who is dead."""
    made.advance(ActivationBatch(x), 0)
    made.losses()
    return lambda: made.advance(ActivationBatch(x), 0)


def ours(
    kind: str,
    shape: tuple[int, int, int],
    members: int = 1,
    dtype: torch.dtype = torch.bfloat16,
    dead: float = 0,
    graph: bool = True,
) -> Step:
    d, m, k = shape
    made = bank([coder(kind, d, m, k, seed, dead, dead_after_tokens=10**8) for seed in range(members)], dtype)
    made.use_graph = graph
    return stepper(made, tokens(N, d))


# -- right first ------------------------------------------------------------------------------------------------------------


def twin_step(c: Any, optimiser: torch.optim.Adam, lr: float, x: torch.Tensor) -> float:
    """The specification: autograd, torch's clipping and Adam."""
    for group in optimiser.param_groups:
        group["lr"] = lr
    optimiser.zero_grad()
    losses = c.loss(ActivationBatch(x))
    losses["loss"].backward()
    c.before_step()
    torch.nn.utils.clip_grad_norm_(c.parameters(), 1.0)
    optimiser.step()
    c.after_step()
    return float(losses["fvu"].detach())


def check(kind: str, members: int, dtype: torch.dtype, steps: int, dead: float, label: str) -> None:
    """Losses of a bank and of its members' twins on planted data; the largest gap, and that of the weights."""
    d, m, k, n = 256, 4096, 16, 2048
    atoms = torch.nn.functional.normalize(torch.randn(2 * d, d, generator=torch.Generator().manual_seed(5)), dim=-1)
    rng = torch.Generator().manual_seed(6)

    def batch() -> torch.Tensor:
        codes = torch.zeros(n, 2 * d).scatter(1, torch.rand(n, 2 * d, generator=rng).topk(8).indices, 1.0)
        return (codes * torch.rand(n, 2 * d, generator=rng) @ atoms + 0.3).to(DEVICE)

    fewer = 3 if kind == "topk" else 0
    coders = [coder(kind, d, m, k - fewer * i, i, dead, dead_after_tokens=10**8) for i in range(members)]
    start = batch()
    for i, c in enumerate(coders):
        c.initialise(start, torch.Generator().manual_seed(i))
    twins = copy.deepcopy(coders)
    made = bank(coders, dtype, steps, 1e-3)
    optimisers = [torch.optim.Adam(t.parameters(), lr=1e-3, eps=1e-8, fused=True) for t in twins]
    gaps, first = [], {}
    made.losses()  # AuxK from the first step where latents are dead
    for step in range(steps):
        x = batch()
        made.advance(ActivationBatch(x), step)
        losses = made.losses()
        rate = 1e-3 * made.schedule.factor(step)
        for i, twin in enumerate(twins):
            expected = twin_step(twin, optimisers[i], rate, x)
            gaps.append(abs(float(losses[str(i)]["fvu"]) - expected) / expected)
            if step == 0:
                for (name, a), b in zip(coders[i].named_parameters(), twin.parameters(), strict=True):
                    first[name] = float(((a - b).norm() / b.norm().clamp(min=1e-12)).detach())
    say(
        check=label, steps=steps, members=members, dtype=str(dtype), largest_loss_gap=max(gaps), last_gap=gaps[-1],
        first_step=first, first_loss_gap=gaps[0],
    )  # fmt: skip


# -- other libraries --------------------------------------------------------------------------------------------------------


def without_logger() -> None:
    """wandb logs, and no step calls it: an empty stand-in where it is not installed."""
    try:
        import wandb  # noqa: F401
    except ImportError:
        for name in ("wandb", "wandb.sdk", "wandb.sdk.wandb_run"):
            sys.modules[name] = MagicMock(__spec__=ModuleSpec(name, None))


def sae_lens_step(kind: str, shape: tuple[int, int, int], autocast: bool) -> Step:
    """Its trainer's own step: forward, backward, clipping, Adam, schedules."""
    without_logger()
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
    from sae_lens.saes.matching_pursuit_sae import MatchingPursuitTrainingSAE, MatchingPursuitTrainingSAEConfig
    from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.training.sae_trainer import SAETrainer

    d, m, k = shape
    shared = {"d_in": d, "d_sae": m, "device": str(DEVICE), "dtype": "float32"}
    if kind == "topk":
        sae: Any = TopKTrainingSAE(TopKTrainingSAEConfig(**shared, k=k))
    elif kind == "batchtopk":
        sae = BatchTopKTrainingSAE(BatchTopKTrainingSAEConfig(**shared, k=k))
    else:
        sae = MatchingPursuitTrainingSAE(
            MatchingPursuitTrainingSAEConfig(**shared, max_iterations=k, residual_threshold=0.0)
        )
    x = tokens(N_STEP, d)
    config = SAETrainerConfig(
        n_checkpoints=0, checkpoint_path=None, save_final_checkpoint=False, total_training_samples=10**8,
        device=str(DEVICE), autocast=autocast, lr=1e-4, lr_end=1e-5, lr_scheduler_name="constant", lr_warm_up_steps=0,
        adam_beta1=0.9, adam_beta2=0.999, lr_decay_steps=0, n_restart_cycles=1, train_batch_size_samples=N_STEP,
        dead_feature_window=1000, feature_sampling_window=2000, logger=LoggingConfig(log_to_wandb=False),
    )  # fmt: skip
    trainer = SAETrainer(cfg=config, sae=sae, data_provider=iter([]))
    return lambda: trainer._train_step(sae=sae, sae_in=x)


def sparsify_step(shape: tuple[int, int, int]) -> Step:
    """Its sparse coder in bf16 with its fused encoder, torch's fused Adam, its projection and norm constraint."""
    from sparsify import SparseCoder, SparseCoderConfig  # pyright: ignore[reportMissingImports]

    d, m, k = shape
    made = SparseCoder(d, SparseCoderConfig(num_latents=m, k=k), device=DEVICE, dtype=torch.bfloat16)
    optimiser = torch.optim.Adam(made.parameters(), lr=1e-4, fused=True)
    x = tokens(N, d).bfloat16()

    def step() -> None:
        made.set_decoder_norm_to_unit_norm()
        made(x).fvu.backward()
        made.remove_gradient_parallel_to_decoder_directions()
        optimiser.step()
        optimiser.zero_grad()

    return step


def peers(row: str, kind: str, shape: tuple[int, int, int]) -> None:
    measure(row, "sae-lens fp32", lambda: sae_lens_step(kind, shape, False))
    measure(row, "sae-lens autocast", lambda: sae_lens_step(kind, shape, True))
    if kind == "topk":
        measure(row, "sparsify bf16", lambda: sparsify_step(shape))


def profile(kind: str, shape: tuple[int, int, int], dead: float = 0) -> None:
    """Where a step's time goes: kernels by name, microseconds a step, without the graph."""
    d, m, k = shape
    made = bank([coder(kind, d, m, k, 0, dead, dead_after_tokens=10**8)], torch.bfloat16)
    made.use_graph = False
    step = stepper(made, tokens(N, d))
    for _ in range(3):
        step()
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as trace:
        for _ in range(5):
            step()
        torch.cuda.synchronize()
    found = sorted(trace.key_averages(), key=lambda e: -e.self_device_time_total)
    rows = {e.key[:70]: [round(e.self_device_time_total / 5), e.count // 5] for e in found[:32]}
    say(
        profile=kind,
        shape=shape,
        dead=dead,
        total_us=round(sum(e.self_device_time_total for e in found) / 5),
        kernels=rows,
    )


def cpu() -> None:
    """TopK on a CPU, one thread, ours and sae-lens in turn; seconds of the processor, so that other work hardly counts."""
    global DEVICE, N_STEP
    DEVICE, N_STEP = torch.device("cpu"), 2048
    torch.set_num_threads(1)
    d, m, k = 576, 4608, 32
    made, x = bank([coder("topk", d, m, k, dead_after_tokens=10**8)], torch.float32), tokens(N_STEP, d)
    steps = {
        "ours": lambda: made.advance(ActivationBatch(x), 0),
        "sae-lens fp32": sae_lens_step("topk", (d, m, k), False),
    }
    times: dict[str, list[float]] = {who: [] for who in steps}
    for _ in range(8):
        for who, step in steps.items():
            start = time.process_time()
            step()
            times[who].append(time.process_time() - start)
    for who, found in times.items():
        say(row="TopK 576x4608 k=32, 2048 tokens, CPU", who=who, cpu_seconds=round(statistics.median(found[2:]), 4))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="check,topk-small,topk-large,eight,auxk,batchtopk,mp")
    parser.add_argument("--profile", action="store_true", help="Also print where the time of our step goes.")
    parser.add_argument("--no-peers", action="store_true")
    args = parser.parse_args()
    wanted = args.only.split(",")
    if wanted == ["cpu"]:
        cpu()
        return
    say(card=torch.cuda.get_device_name(), torch=torch.__version__)
    if "check" in wanted:
        check("topk", 1, torch.float32, 20, 0, "TopK, fp32 step equals the specification")
        check("topk", 2, torch.float32, 20, 0.1, "TopK, fp32, two members of different k, AuxK")
        check("batchtopk", 2, torch.float32, 20, 0.1, "BatchTopK, fp32, two members, AuxK")
        check("mp", 1, torch.float32, 20, 0.9, "MP, fp32, reviving term")
        for kind in ("topk", "batchtopk", "mp"):
            check(kind, 1, torch.bfloat16, 200, 0, f"{kind}, bf16 follows the fp32 specification")
    if "topk-small" in wanted:
        measure("TopK 768x24576 k=32", "ours bf16", lambda: ours("topk", SMALL))
        measure("TopK 768x24576 k=32", "ours bf16, no graph", lambda: ours("topk", SMALL, graph=False))
        measure("TopK 768x24576 k=32", "ours fp32", lambda: ours("topk", SMALL, dtype=torch.float32))
    if "topk-large" in wanted:
        measure("TopK 2304x65536 k=64", "ours bf16", lambda: ours("topk", LARGE))
    if "batchtopk" in wanted:
        measure("BatchTopK 768x24576 k=32", "ours bf16", lambda: ours("batchtopk", SMALL))
    if "mp" in wanted:
        measure("MP 768x6144 k=32", "ours bf16", lambda: ours("mp", (768, 6144, 32)))
        measure("MP 768x6144 k=32", "ours fp32", lambda: ours("mp", (768, 6144, 32), dtype=torch.float32))
    if "eight" in wanted:
        measure("eight TopK 768x24576 k=32", "ours bf16", lambda: ours("topk", SMALL, members=8))
    if "auxk" in wanted:
        measure("TopK 768x24576 k=32, AuxK, 10 % dead", "ours bf16", lambda: ours("topk", SMALL, dead=0.1))
        measure("TopK 2304x65536 k=64, AuxK, 10 % dead", "ours bf16", lambda: ours("topk", LARGE, dead=0.1))
    if args.profile:
        profile("topk", SMALL, dead=0.1)
        profile("batchtopk", SMALL)
        profile("mp", (768, 6144, 32))
    if not args.no_peers:
        if "topk-small" in wanted:
            peers("TopK 768x24576 k=32", "topk", SMALL)
        if "topk-large" in wanted:
            peers("TopK 2304x65536 k=64", "topk", LARGE)
        if "batchtopk" in wanted:
            peers("BatchTopK 768x24576 k=32", "batchtopk", SMALL)
        if "mp" in wanted:
            peers("MP 768x6144 k=32", "mp", (768, 6144, 32))


DEVICE = torch.device("cuda")
N_STEP = N

if __name__ == "__main__":
    main()
