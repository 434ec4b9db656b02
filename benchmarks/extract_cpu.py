"""What extraction costs beyond the work it cannot avoid, on a CPU.

    python benchmarks/extract_cpu.py --tokens 60000 [--json]

Timed in one process, interleaved shard by shard so that a noisy machine disturbs all alike:
  forward   the Hugging Face model cut off after the hook's layer, on the same padded batches, no hooks of ours
  product   x @ W_enc^T of every activation, nothing else
  job       what `sparse-rep extract` does with a shard: forward, encode, collect, sort, write, fsync, manifest
The claim: job <= 1.10 x (forward + product). Start-up (loading the model, tokenising) and the tables made once at the end
are timed apart, as they do not grow with the corpus.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
import transformers

from sparse_rep.config import ExtractConfig, ModelConfig, TextConfig, TopKConfig
from sparse_rep.corpora.source import captured
from sparse_rep.corpora.tokenised import build_corpus
from sparse_rep.hosting.load import load_model
from sparse_rep.jobs.extract import extract
from sparse_rep.jobs.task import LocalExecutor, ShardResult, ShardTask
from sparse_rep.progress import Reporter
from sparse_rep.saes.formats.stored import save_dictionary
from sparse_rep.saes.topk import TopK
from sparse_rep.store import Store

HOOK, LAYERS, CONTEXT, BATCH = "blocks.9.hook_resid_post", 10, 256, 4096


class Interleaved:
    """Runs each shard's bare forward and product just before the job gets the shard, and keeps the job's own time."""

    def __init__(self, bare: Bare) -> None:
        self.bare, self.job = bare, 0.0

    def map(self, make_worker, tasks: Iterable[ShardTask]) -> Iterator[ShardResult]:
        worker = make_worker()
        worker.run(next(iter(tasks)))  # warm-up: allocator and thread pools
        for task in tasks:
            self.bare.time(task)
            at = time.perf_counter()
            (result,) = LocalExecutor().map(lambda: worker, [task])
            yield result  # the coordinator writes and commits before it asks for the next
            self.job += time.perf_counter() - at


class Bare:
    """The two baselines."""

    def __init__(self, model, corpus, W_enc: torch.Tensor) -> None:
        self.corpus, self.windows, self.hosted, self.W_enc = corpus, corpus.windows(CONTEXT, model.bos_id), model, W_enc
        layers = model.model.model.layers
        config = type(model.model.config).from_dict({**model.model.config.to_dict(), "num_hidden_layers": LAYERS})
        self.model = transformers.LlamaModel(config).eval()
        self.model.embed_tokens, self.model.layers = model.model.model.embed_tokens, layers[:LAYERS]
        self.model.norm = torch.nn.Identity()
        self.forward = self.product = self.elapsed = 0.0

    @torch.no_grad()
    def time(self, task: ShardTask) -> None:
        started = time.perf_counter()
        inside = self.windows.within(task.tok_lo, task.tok_hi)
        for batch in self.windows.batches(self.corpus.token_ids, inside, BATCH):
            at = time.perf_counter()
            self.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False)
            self.forward += time.perf_counter() - at
        for part in captured(self.hosted, self.windows, self.corpus.token_ids, inside, [HOOK], BATCH):
            at = time.perf_counter()
            part.x[HOOK] @ self.W_enc.T
            self.product += time.perf_counter() - at
        self.elapsed += time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=60_000)
    parser.add_argument("--latents", type=int, default=4608)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    started = time.perf_counter()
    model = load_model(ModelConfig(device="cpu"))
    load_seconds = time.perf_counter() - started
    text = TextConfig(n_tokens=args.tokens, context=CONTEXT)
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder, create=True)
        corpus = build_corpus(store, text, model.tokenizer)
        coder = TopK(TopKConfig(n_latents=args.latents, k=args.k), model.width(HOOK))
        windows = corpus.windows(CONTEXT, model.bos_id)
        sample = next(captured(model, windows, corpus.token_ids, range(16), [HOOK], BATCH)).x[HOOK]
        coder.initialise(sample, torch.Generator().manual_seed(0))
        path = store.dictionary_path("bench")
        path.parent.mkdir(parents=True, exist_ok=True)
        save_dictionary(coder, path, {"hook_name": HOOK})
        timing = Interleaved(Bare(model, corpus, coder.W_enc.detach()))
        config = ExtractConfig(dictionaries=("bench",), text=text, batch_tokens=BATCH, store=Path(folder))
        at = time.perf_counter()
        summary = extract(config, Reporter(silent=True), timing)
        whole = time.perf_counter() - at - timing.bare.elapsed
    floor = timing.bare.forward + timing.bare.product
    result = {
        "tokens": args.tokens,
        "latents": args.latents,
        "k": args.k,
        "forward_s": round(timing.bare.forward, 2),
        "product_s": round(timing.bare.product, 2),
        "job_s": round(timing.job, 2),
        "ratio": round(timing.job / floor, 3),
        "tokens_per_s": round(args.tokens / timing.job),
        "load_s": round(load_seconds, 2),
        "rest_of_command_s": round(whole - timing.job, 2),
        "codes": summary["n_rows"],
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
    }
    if args.json:
        print(json.dumps(result))
    else:
        for name, value in result.items():
            print(f"{name:>18}  {value}")


if __name__ == "__main__":
    main()
