"""Times what attention profiles are made of, on one CUDA device.

    python benchmarks/attention.py [dense] [methods] [model] [--rehearse] [--json]

dense    block-mass map and exact log-sum-exp against torch SDPA's fastest backend, at 32k and 128k tokens
methods  ten choices of blocks scored on one layer of 128k tokens, against its dense pass
model    every head of an 8B-class Llama with random weights, on one text of 32k tokens

Shapes are Llama-3.1-8B's: 32 query heads on 8 key-value heads of width 128, bf16. Medians in milliseconds, competitors in turn.
`--rehearse` takes tiny sizes and any device, to see that it runs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from sparse_rep.attention.dense import Dense, dense
from sparse_rep.attention.layer import LayerAttention
from sparse_rep.attention.masks import BlockMask
from sparse_rep.attention.method import Estimate
from sparse_rep.attention.methods.registry import build_method
from sparse_rep.attention.score import score
from sparse_rep.kernels.attention import Rule, attention, block_mass, line_mass, log_sum_exp

GIB = 2**30
REPORT: dict[str, Any] = {}


def medians(calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Milliseconds of each call, in turn within each repeat."""
    if not torch.cuda.is_available():
        return {name: _wall(call) for name, call in calls.items()}
    for call in calls.values():
        call()
    times: dict[str, list[tuple[torch.cuda.Event, torch.cuda.Event]]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            call()
            stop.record()
            times[name].append((start, stop))
        torch.cuda.synchronize()
    return {name: statistics.median(a.elapsed_time(b) for a, b in pairs) for name, pairs in times.items()}


def _wall(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1e3


def layer(n: int, rehearse: bool) -> LayerAttention:
    """Random queries and keys; logits are spread so that attention is neither flat nor on one key."""
    h, g, d = (4, 2, 16) if rehearse else (32, 8, 128)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    draw = torch.Generator(device).manual_seed(n)
    q, k, v = (torch.randn(heads, n, d, generator=draw, device=device) for heads in (h, g, g))
    return LayerAttention((1.5 * q).to(dtype), k.to(dtype), v.to(dtype))


def sdpa(x: LayerAttention, backend: SDPBackend) -> Tensor:
    with sdpa_kernel(backend):
        return torch.nn.functional.scaled_dot_product_attention(
            x.q[None], x.k[None], x.v[None], is_causal=True, enable_gqa=True
        )


def bench_dense(rehearse: bool) -> None:
    REPORT["dense"] = [_dense_row(layer(n, rehearse)) for n in ((256, 512) if rehearse else (32_768, 131_072))]


def _dense_row(x: LayerAttention) -> dict[str, Any]:
    rule = Rule(x.scaling)
    lse = log_sum_exp(x.q, x.k, rule)
    backends = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}
    if not torch.cuda.is_available():
        backends = {"math": SDPBackend.MATH}

    def whole() -> Tensor:
        return block_mass(x.q, x.k, attention(x.q, x.k, x.v, rule)[1], rule)

    found = medians(
        {
            **{name: lambda b=b: sdpa(x, b) for name, b in backends.items()},
            "lse": lambda: log_sum_exp(x.q, x.k, rule),
            "map": lambda: block_mass(x.q, x.k, lse, rule),
            "lse and map": lambda: block_mass(x.q, x.k, log_sum_exp(x.q, x.k, rule), rule),
            "output, lse and map": whole,
            "columns, distances, entropy": lambda: line_mass(x.q, x.k, lse, rule),
        },
        repeats=7 if x.n < 100_000 else 3,
    )
    best = min(backends, key=lambda name: found[name])
    held, peak = _memory(whole)
    off = (block_mass(x.q, x.k, lse, rule).sum(-1) - 1).abs().max()
    return {
        "n": x.n,
        **{name: round(ms, 2) for name, ms in found.items()},
        "fastest SDPA": best,
        "lse and map / SDPA": round(found["lse and map"] / found[best], 3),
        "output, lse and map / SDPA": round(found["output, lse and map"] / found[best], 3),
        "rows sum to 1 within": f"{float(off):.1e}",
        "MiB of output, lse and map": round(held / 2**20, 1),
        "MiB taken to make them": round(peak / 2**20, 1),
    }


def _memory(call: Callable[[], object]) -> tuple[float, float]:
    """Bytes of the output, log-sum-exp and map together, and bytes that making them took at most."""
    if not torch.cuda.is_available():
        call()
        return 0.0, 0.0
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    mass = call()
    torch.cuda.synchronize()
    assert isinstance(mass, Tensor)
    h, b, _ = mass.shape
    n = b * 128
    return mass.nbytes + h * n * (128 * 2 + 4), torch.cuda.max_memory_allocated() - before


def bench_methods(rehearse: bool) -> None:
    """Recall by look-up, density, oracle, and output error by a masked pass each."""
    n = 1024 if rehearse else 131_072
    x = layer(n, rehearse)
    truth = dense(x)
    estimates: list[tuple[str, Estimate]] = []
    for name in ("block_sparse", "flexprefill", "proxyattn", "s2", "oracle_blocks", "random_blocks"):
        for budget in (0.05, 0.1):
            estimate = build_method(name).estimate(x, budget)
            if isinstance(estimate.mask, BlockMask) and len(estimates) < 10:
                estimates.append((f"{name} at {budget}", estimate))
    masks = [estimate for _, estimate in estimates]
    score(truth, masks)  # computes once what every mask is looked up in
    found = medians(
        {
            "dense pass": lambda: dense(x),
            "dense pass and map": lambda: dense(x).map(128),
            "ten scored": lambda: score(truth, masks),
            "ten scored, from scratch": lambda: score(Dense(x, truth.out, truth.lse, None), masks),
        },
        repeats=3,
    )
    densities = [float(s.density.mean()) for s in score(truth, masks)]
    REPORT["methods"] = {
        "n": n,
        **{name: round(ms, 1) for name, ms in found.items()},
        "ten scored / dense pass": round(found["ten scored"] / found["dense pass"], 2),
        "ten scored from scratch / dense pass and map": round(
            found["ten scored, from scratch"] / found["dense pass and map"], 2
        ),
        "methods": [name for name, _ in estimates],
        "densities": [round(d, 3) for d in densities],
    }


class _Tokenizer:
    """Enough of one for a model that reads token ids."""

    bos_token_id = 0

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        return {"input_ids": [1]}


def bench_model(rehearse: bool) -> None:
    from transformers import AutoModelForCausalLM, LlamaConfig

    from sparse_rep.config import HeadsConfig, TextConfig
    from sparse_rep.corpora.tokenised import Corpus
    from sparse_rep.hosting.huggingface import HuggingFaceModel
    from sparse_rep.hosting.model import ModelOrigin
    from sparse_rep.jobs.heads import HeadCapture, chosen_methods
    from sparse_rep.jobs.task import ShardTask
    from sparse_rep.jobs.worker import CaptureWorker
    from sparse_rep.progress import Reporter

    n = 512 if rehearse else 32_768
    size: dict[str, Any] = {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    if not rehearse:
        size: dict[str, Any] = {
            "hidden_size": 4096,
            "intermediate_size": 14_336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
        }
    kv = 2 if rehearse else 8
    vocab = 1000 if rehearse else 128_256
    config = LlamaConfig(**size, num_key_value_heads=kv, vocab_size=vocab, max_position_embeddings=131_072)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16 if device == "cuda" else torch.float32)
    hosted = HuggingFaceModel(model, _Tokenizer(), ModelOrigin("random Llama", "none"))
    ids = np.random.default_rng(0).integers(0, vocab, n).astype(np.uint32)
    docs = {"doc": [0], "tok_lo": [0], "tok_hi": [n], "domain": ["random"], "source": ["random"], "split": ["train"]}
    corpus = Corpus("random", ids, docs, {})
    rows = []
    for methods in (
        (),
        ("block_sparse", "a_shape"),
        ("block_sparse", "a_shape", "vertical_slash", "flexprefill", "s2"),
    ):
        wanted = HeadsConfig(text=TextConfig(context=n), methods=methods, budgets=(0.1,))
        capture = HeadCapture(wanted, chosen_methods(wanted), Reporter(silent=True))
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        capture.fit(hosted, corpus)
        worker = CaptureWorker(hosted, corpus, [capture], context=n, batch_tokens=n)
        result = worker.run(ShardTask(run_id="bench", shard=0, tok_lo=0, tok_hi=n)).tables
        seconds = time.perf_counter() - start
        peak = torch.cuda.max_memory_allocated() / GIB if torch.cuda.is_available() else 0.0
        heads = len(result["head_texts"]["layer"])
        rows.append(
            {"methods": list(methods), "heads": heads, "seconds": round(seconds, 2), "peak GiB": round(peak, 1)}
        )
        print(rows[-1], flush=True)
    REPORT["model"] = {"n": n, "runs": rows, "note": "the first run compiles the kernels"}


PARTS = {"dense": bench_dense, "methods": bench_methods, "model": bench_model}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="default: all")
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    for part in arguments.parts or PARTS:
        PARTS[part](arguments.rehearse)
        print(json.dumps({part: REPORT[part]}, indent=None if arguments.json else 1), flush=True)
