"""Training and extraction on a GPU: right first, then timed.

    python benchmarks/cuda_path.py [--json] [--tokenizer DIR] [--out DIR]

A randomly initialised Llama of SmolLM2-135M's shape (nothing needs downloading) reads the standard library. Checked: codes on
CUDA equal those on the CPU up to near-ties; a training step with the default kernels follows the reference kernels' loss; the
run rows name the kernel. Timed: training steps (median after warm-up) and extraction, with the default kernels and with
`--kernels reference`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import transformers

from sparse_rep.activations import TensorSource
from sparse_rep.config import ExtractConfig, ModelConfig, TextConfig, TopKConfig, TrainConfig
from sparse_rep.jobs.extract import extract
from sparse_rep.jobs.training import train_dictionary
from sparse_rep.progress import Reporter
from sparse_rep.saes.topk import TopK
from sparse_rep.saes.training.trainer import train
from sparse_rep.store import Store

SHAPES = [(576, 4608, 32), (768, 24_576, 32), (2304, 65_536, 64)]


def make_model(folder: Path, tokenizer: Path) -> None:
    loaded = transformers.AutoTokenizer.from_pretrained(tokenizer)
    loaded.save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        vocab_size=len(loaded),
        tie_word_embeddings=True,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)


def step_ms(d: int, m: int, k: int, backend: str, rows: int = 8192) -> float:
    """Median time of a training step (loss, backward, projection, Adam, renormalisation) on `rows` random tokens."""
    x = torch.randn(rows, d, generator=torch.Generator().manual_seed(0))
    coder = TopK(TopKConfig(n_latents=m, k=k, dead_after_tokens=10**9), d, backend)  # pyright: ignore
    times: list[float] = []
    last = time.perf_counter()

    def tick(_step: int, _tokens: int) -> None:
        nonlocal last
        torch.cuda.synchronize()
        now = time.perf_counter()
        times.append((now - last) * 1e3)
        last = now

    settings = TrainConfig(n_tokens=rows * 40, batch_tokens=rows, buffer_tokens=rows, log_every=10**6)
    train({"a": coder}, TensorSource(x, rows), settings, device="cuda", on_step=tick)
    return statistics.median(times[15:])


def losses(backend: str) -> list[float]:
    """The first 30 losses of a small training run."""
    x = torch.randn(20_000, 256, generator=torch.Generator().manual_seed(0)) + 2
    coder = TopK(TopKConfig(n_latents=2048, k=16, dead_after_tokens=20_000), 256, backend)  # pyright: ignore
    seen: list[float] = []
    settings = TrainConfig(n_tokens=30 * 2048, batch_tokens=2048, buffer_tokens=8192, log_every=1)
    train({"a": coder}, TensorSource(x), settings, device="cuda", on_metrics=lambda n, s, v: seen.append(v["fvu"]))
    return seen


def check_codes_equal_the_cpus() -> float:
    """Largest share of a token's codes that differ between devices, near-ties apart."""
    x = torch.randn(4096, 576, generator=torch.Generator().manual_seed(0))
    coder = TopK(TopKConfig(n_latents=4608, k=32), 576)
    coder.initialise(x, torch.Generator().manual_seed(0))
    with torch.no_grad():
        here = coder.encode(x)
        there = coder.cuda().encode(x.cuda()).to("cpu")
        pre = (x.double() / coder.scale.double().cpu() - coder.b_dec.double().cpu()) @ coder.W_enc.double().cpu().T
        bar = (pre * coder.scale.double().cpu()).topk(32).values[:, -1:]
    worst = 0.0
    for row in range(len(x)):
        differ = set(here.indices[row].tolist()) ^ set(there.indices[row].tolist())
        for latent in differ - {-1}:
            gap = abs(float(pre[row, latent] * coder.scale.double().cpu()) - float(bar[row])) / float(bar[row])
            worst = max(worst, gap)
    assert worst < 1e-5, f"a latent {worst:.1e} away from the k-th was chosen on one device only"
    return worst


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, required=True, help="Directory of a Hugging Face tokenizer.")
    parser.add_argument("--tokens", type=int, default=400_000)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    result: dict[str, Any] = {
        "card": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "near_tie_gap": check_codes_equal_the_cpus(),
    }
    one, two = losses("auto"), losses("reference")
    result["loss_gap"] = max(abs(a - b) for a, b in zip(one, two, strict=True))
    assert result["loss_gap"] < 1e-3, f"losses drift apart: {result['loss_gap']}"
    for d, m, k in SHAPES:
        for backend in ("auto", "reference"):
            if backend == "reference" and m > 30_000:
                continue  # a stable sort of 8192 x 65,536: the specification, not a competitor
            result[f"step_ms {d}x{m} k={k} {backend}"] = round(step_ms(d, m, k, backend), 2)
    with tempfile.TemporaryDirectory() as folder:
        make_model(Path(folder) / "model", args.tokenizer)
        for kernels in ("auto", "reference"):
            result.update(whole_path(Path(folder), args.tokens, kernels))
    if args.json:
        print(json.dumps(result))
    else:
        for name, value in result.items():
            print(f"{name:>45}  {value}")


def whole_path(folder: Path, n_tokens: int, kernels: str) -> dict[str, Any]:
    """Train and extract through the jobs; the run rows must say which kernel ran."""
    model = ModelConfig(name=str(folder / "model"), device="cuda")
    text = TextConfig(sources=("stdlib",), n_tokens=n_tokens, context=256)
    store = folder / f"store-{kernels}"
    quiet = Reporter(silent=True)
    trained = train_dictionary(
        TrainConfig(
            name="gpu",
            model=model,
            text=text,
            dictionary=TopKConfig(n_latents=16_384, k=32),
            n_tokens=2 * n_tokens,
            batch_tokens=4096,
            kernels=kernels,  # pyright: ignore
            store=store,
        ),
        quiet,
    )
    seconds: list[float] = []
    quiet.sinks.append(lambda e: seconds.append(sum(e["seconds"].values())) if e["event"] == "shard" else None)
    done = extract(
        ExtractConfig(
            name="gpu",
            dictionaries=(trained["dictionary_id"],),
            model=model,
            text=text,
            batch_tokens=32_768,
            shard_tokens=65_536,
            kernels=kernels,  # pyright: ignore
            store=store,
        ),
        quiet,
    )
    rows = Store(store).query("SELECT kind, kernel FROM runs ORDER BY kind").to_pylist()
    warm = sorted(seconds)[: max(len(seconds) - 1, 1)]
    return {
        f"explained_variance {kernels}": round(trained["explained_variance"], 4),
        f"kernel {kernels}": {r["kind"]: r["kernel"] for r in rows},
        f"extract tokens/s {kernels}": round(65_536 * len(warm) / sum(warm)),
        f"codes {kernels}": done["n_rows"],
    }


if __name__ == "__main__":
    main()
