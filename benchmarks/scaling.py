"""Training over several processes: the losses of one, the bytes of the formula, and how the step's time scales.

    torchrun --nproc-per-node N benchmarks/scaling.py [--shape 2304,65536,64] [--wide 2304,524288,64] [--tokens 8192]

One GPU a process over NCCL, or CPU processes over gloo (small shapes then, unless others are given). Two ways to share: every
batch's tokens, and the latents of a wider dictionary. For each: 20 losses against those of one process (1e-3 in bf16, 1e-5 in
fp32), bytes that a rank sends a step against the formula, and the median step. On CUDA also where the time goes. One JSON
object a line, from rank 0; with one process, the baseline.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from typing import Any

import torch
import torch.distributed as dist

from sparse_rep.activations import TensorSource
from sparse_rep.config import TopKConfig, TrainConfig
from sparse_rep.jobs.together import launched
from sparse_rep.saes.ranks import ALONE, PLACE_BYTES, current, rows_are_fewer, together
from sparse_rep.saes.topk import TopK
from sparse_rep.saes.training.trainer import train

CUDA = torch.cuda.is_available()
Shape = tuple[int, int, int]
PARTS = {
    "product": ("product_kernel", "nvjet", "gemm"),
    "sparse": ("select", "residual", "latent_sum", "extra_parts", "radix", "searchsorted"),
    "exchange": ("nccl",),
    "optimiser": ("unit_rows_kernel", "flat_kernel"),
}


def say(**row: Any) -> None:
    if current().first:
        print(json.dumps(row), flush=True)


def run(shape: Shape, n_tokens: int, steps: int, share_latents: bool, device: torch.device) -> dict[str, Any]:
    """Losses, seconds a step and bytes sent a step, by purpose."""
    d, m, k = shape
    x = torch.randn(4 * n_tokens, d, generator=torch.Generator().manual_seed(0)) + 0.3
    coder = TopK(TopKConfig(n_latents=m, k=k, dead_after_tokens=10**9), d)
    losses: list[float] = []
    times: list[float] = []
    last = time.perf_counter()

    def tick(_step: int, _tokens: int) -> None:
        nonlocal last
        if CUDA:
            torch.cuda.synchronize()
        now = time.perf_counter()
        times.append(now - last)
        last = now

    settings = TrainConfig(
        n_tokens=n_tokens * steps, batch_tokens=n_tokens, buffer_tokens=2 * n_tokens, log_every=1, lr=1e-3
    )
    before = dict(current().sent)
    train(
        {"a": coder}, TensorSource(x, n_tokens), settings, device=device,
        dtype=torch.bfloat16 if CUDA else torch.float32, share_latents=share_latents and current().world > 1,
        on_step=tick, on_metrics=lambda name, step, values: losses.append(values["fvu"]),
    )  # fmt: skip
    sent = {name: (total - before.get(name, 0)) / steps for name, total in current().sent.items()}
    return {"losses": losses, "seconds": statistics.median(times[5:]), "sent": sent}


def formula(shape: Shape, n_tokens: int, share_latents: bool) -> dict[str, float]:
    """Bytes that a rank sends a step: gradients of shared tokens; codes and reconstructions of shared latents."""
    (d, m, k), w = shape, current().world
    item = 2 if CUDA else 4
    ring = 2 * (w - 1) / w
    if share_latents:
        return {"codes": (w - 1) * n_tokens * k * 4, "reconstruction": ring * n_tokens * d * 4}
    # Rows a rank touches, of random tokens: at most one a code; measured where that could be fewer bytes than all rows.
    most = min(m, n_tokens // w * k)
    rows = 2 * (w - 1) * most * (d * item + PLACE_BYTES)
    dense = ring * 2 * m * d * item
    matrices = rows if rows_are_fewer(most, m, d * item, w) else dense
    return {"gradients": matrices + ring * (m + d) * 4}


def compare(name: str, shape: Shape, n_tokens: int, share_latents: bool, device: torch.device, alone: bool) -> None:
    """One way of sharing against one process; `alone` False where one device cannot hold the dictionary."""
    steps = 20
    found = run(shape, n_tokens, steps, share_latents, device)
    row = {
        "mode": name, "ranks": current().world, "device": torch.cuda.get_device_name() if CUDA else "cpu",
        "shape": shape, "ms": round(found["seconds"] * 1e3, 3), "tokens_per_s": round(n_tokens / found["seconds"]),
    }  # fmt: skip
    if current().world > 1:
        expected = formula(shape, n_tokens, share_latents)
        row["sent_bytes"] = {purpose: round(found["sent"][purpose]) for purpose in expected}
        row["formula_bytes"] = {purpose: round(count) for purpose, count in expected.items()}
        for purpose, count in expected.items():
            # Rows touched are counted when sent; the formula has their bound. Everything else is exact.
            assert found["sent"][purpose] <= count * 1.0001, (purpose, found["sent"][purpose], count)
        if alone:
            with together(ALONE):
                one = run(shape, n_tokens, steps, False, device)
            gaps = [abs(a - b) / b for a, b in zip(found["losses"], one["losses"], strict=True)]
            row |= {"largest_loss_gap": max(gaps), "speedup": round(one["seconds"] / found["seconds"], 3)}
            assert max(gaps) < (1e-3 if CUDA else 1e-5), max(gaps)
    say(**row)
    if CUDA:
        say(mode=name, ranks=current().world, split_us=split(shape, n_tokens, share_latents, device))


def split(shape: Shape, n_tokens: int, share_latents: bool, device: torch.device) -> dict[str, int]:
    """Device microseconds a step by part, on this rank."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as trace:
        run(shape, n_tokens, 8, share_latents, device)
    found = dict.fromkeys((*PARTS, "other"), 0.0)
    for event in trace.key_averages():
        part = next((p for p, names in PARTS.items() if any(n in event.key for n in names)), "other")
        found[part] += event.self_device_time_total / 8
    return {part: round(us) for part, us in found.items()}


def shape_of(text: str) -> Shape:
    d, m, k = map(int, text.split(","))
    return d, m, k


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=shape_of, default=(2304, 65_536, 64) if CUDA else (64, 512, 8))
    parser.add_argument("--wide", type=shape_of, default=(2304, 524_288, 64) if CUDA else (64, 4096, 8))
    parser.add_argument("--tokens", type=int, default=8192 if CUDA else 256)
    args = parser.parse_args()
    with launched():
        device = torch.device(f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if CUDA else "cpu")
        if CUDA:
            torch.cuda.set_device(device)
        compare("tokens shared", args.shape, args.tokens, False, device, alone=True)
        if current().world > 1:
            compare("tokens shared, wide", args.wide, args.tokens, False, device, alone=not CUDA)
            compare("latents shared, wide", args.wide, args.tokens, True, device, alone=not CUDA)
            dist.barrier()


if __name__ == "__main__":
    main()
