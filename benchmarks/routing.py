"""What capturing the routing of a mixture costs, and what it takes to keep and to ask.

    python benchmarks/routing.py [--tiny] [--tokens N] [--store DIR] [--json]

A randomly initialised OLMoE (64 experts, top-8, 16 layers, hidden 2048, bf16; 6.9 billion parameters, nothing is downloaded)
reads random token ids. Measured on one GPU:

  overhead   forward with capture (hooks, ranking, statistics, copies to pinned memory) over the forward alone; medians of
             interleaved rounds, so that both see the same clocks
  store      the routing job over N tokens (default 2^20): routes by 16 layers x 8 experts, bytes a row, tokens a second, and
             where the time goes
  queries    before sealing and after it, each in a fresh connection and again: one expert's tokens, a token's experts, a
             layer's loads, domains by expert

`--tiny` is the same at a size for a CPU. Loss with capture must equal loss without, bit for bit, or the run fails.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, models

from sparse_rep.config import RoutingConfig
from sparse_rep.corpora.tokenised import Corpus
from sparse_rep.hosting.huggingface import HuggingFaceModel
from sparse_rep.hosting.model import ModelOrigin
from sparse_rep.jobs.coordinator import fill
from sparse_rep.jobs.routing import RoutingCapture
from sparse_rep.jobs.task import LocalExecutor
from sparse_rep.progress import Reporter
from sparse_rep.routing.capture import RouterHooks
from sparse_rep.routing.capture_rows import RouteRows
from sparse_rep.store import Store, seal

CONTEXT = 512
DOMAINS = ("a", "b", "c", "d")
ONE = "FROM routes WHERE layer = {layer} AND expert = 5"
QUERIES = {
    "one expert's first 100 tokens": f"SELECT tok, weight {ONE} ORDER BY tok LIMIT 100",
    "one expert's strongest 100 tokens": f"SELECT tok, weight {ONE} ORDER BY weight DESC LIMIT 100",
    "a token's experts in all layers": "SELECT layer, rank, expert, weight FROM routes WHERE tok = {tok}",
    "a layer's loads": "SELECT expert, count(*) AS n FROM routes WHERE layer = {layer} GROUP BY expert",
    "loads of all layers, from the page table": "SELECT layer, expert, load FROM experts",
    "domains by expert, one layer": (
        "SELECT r.expert, d.domain, count(*) AS n FROM routes r "
        "ASOF JOIN docs d ON r.corpus_id = d.corpus_id AND r.tok >= d.tok_lo WHERE r.layer = {layer} GROUP BY ALL"
    ),
}


def make_model(tiny: bool, device: str) -> HuggingFaceModel:
    shape: dict[str, Any] = {"intermediate_size": 1024}  # with transformers' defaults for the rest, OLMoE-1B-7B's
    if tiny:
        shape = {
            "hidden_size": 64,
            "intermediate_size": 32,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "vocab_size": 1000,
        }
    config = transformers.OlmoeConfig(**shape)
    torch.manual_seed(0)
    with torch.device(device):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    with torch.no_grad():
        for name, parameter in model.named_parameters():  # gates start at zero, where every expert ties
            if name.endswith("gate.weight"):
                parameter.normal_(std=0.02)
    words = Tokenizer(models.WordLevel({str(i): i for i in range(config.vocab_size)}, unk_token="0"))
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words)
    return HuggingFaceModel(model, tokenizer, ModelOrigin("random-olmoe", "seed-0"))


def corpus_of(store: Store, n_tokens: int, vocab: int) -> Corpus:
    """Documents of one window each, their domains in turn."""
    ids = np.random.default_rng(0).integers(0, vocab, n_tokens).astype(np.uint32)
    lo = np.arange(0, n_tokens, CONTEXT)
    docs = {
        "doc": list(range(len(lo))),
        "tok_lo": lo.tolist(),
        "tok_hi": np.minimum(lo + CONTEXT, n_tokens).tolist(),
        "domain": [DOMAINS[i % len(DOMAINS)] for i in range(len(lo))],
        "source": [f"{i}" for i in range(len(lo))],
        "split": ["train"] * len(lo),
    }
    vocabulary = {"token_id": np.arange(vocab, dtype=np.uint32), "piece": [str(i) for i in range(vocab)]}
    corpus = Corpus("random", ids, docs, {})
    store.put_corpus("random", token_ids=ids, docs=docs, vocab={**vocabulary, "text": vocabulary["piece"]}, meta={})
    return corpus


def overhead(model: HuggingFaceModel, batch_tokens: int, rounds: int, passes: int) -> dict[str, Any]:
    """Seconds a pass, with and without capture, in turn."""
    ids = torch.randint(0, model.vocab_size, (batch_tokens // CONTEXT, CONTEXT), device=model.device)
    tok = torch.arange(ids.numel())
    hooks = RouterHooks(model)

    def plain() -> None:
        for _ in range(passes):
            model.model.base_model(input_ids=ids, use_cache=False)

    def captured() -> RouteRows:
        rows = RouteRows()
        with hooks.attached():
            for number in range(passes):
                model.model.base_model(input_ids=ids, use_cache=False)
                real = torch.arange(ids.numel()).to(ids.device, non_blocking=True)
                for routing in hooks.read(real):
                    rows.add(routing, tok + number * len(tok))
        return rows

    seconds: dict[str, list[float]] = {"plain": [], "captured": [], "rows": []}
    for number in range(rounds + 1):
        for name, work in (("plain", plain), ("captured", captured)):
            seconds[name].append(timed(work) / passes)
        rows = captured()
        at = time.perf_counter()
        rows.take()
        seconds["rows"].append((time.perf_counter() - at) / passes)
        if number == 0:
            seconds = {name: [] for name in seconds}  # the first round warms up
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ratios = [c / p for c, p in zip(seconds["captured"], seconds["plain"], strict=True)]
    return {
        "batch_tokens": ids.numel(),
        "forward_ms": round(medians["plain"] * 1e3, 3),
        "with_capture_ms": round(medians["captured"] * 1e3, 3),
        "overhead": round(statistics.median(ratios) - 1, 4),
        "overhead_range": [round(min(ratios) - 1, 4), round(max(ratios) - 1, 4)],
        "rows_on_host_ms": round(medians["rows"] * 1e3, 3),
        "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2) if ids.is_cuda else None,
    }


def timed(work: Callable[[], Any]) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    at = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - at


def same_loss(model: HuggingFaceModel) -> dict[str, bool]:
    ids = torch.randint(0, model.vocab_size, (4, CONTEXT), device=model.device)
    first, again = model.loss(ids), model.loss(ids)
    hooks = RouterHooks(model)
    with hooks.attached():
        captured = model.loss(ids)
        hooks.read()
    return {"loss_is_deterministic": torch.equal(first, again), "loss_equal_bit_for_bit": torch.equal(first, captured)}


def job(model: HuggingFaceModel, store: Store, n_tokens: int, batch_tokens: int) -> dict[str, Any]:
    corpus = corpus_of(store, n_tokens, model.vocab_size)
    config = RoutingConfig.checked(
        {"text": {"context": CONTEXT}, "shard_tokens": 65_536, "batch_tokens": batch_tokens, "store": str(store.path)}
    )
    phases: dict[str, float] = {}

    def count(event: dict[str, Any]) -> None:
        for phase, seconds in event.get("seconds", {}).items() if event["event"] == "shard" else ():
            phases[phase] = phases.get(phase, 0.0) + seconds

    reporter = Reporter(silent=True)
    reporter.sinks.append(count)
    at = time.perf_counter()
    with store.open_run(kind="routing", name="bench", config={}, config_hash="0" * 64, corpus_id="random") as run:
        fill(run, store, model, corpus, [RoutingCapture(analyse=False)], config, reporter, LocalExecutor())
        run_id = run.run_id
    seconds = time.perf_counter() - at
    files = [shard.tables["routes"] for shard in store.manifest(run_id).shards]
    rows, size = sum(f.rows for f in files), sum(f.bytes for f in files)
    return {
        "run_id": run_id,
        "tokens": n_tokens,
        "layers": model.n_layers,
        "rows": rows,
        "bytes_a_row": round(size / rows, 3),
        "mib": round(size / 2**20, 1),
        "seconds": round(seconds, 2),
        "tokens_a_second": round(n_tokens / seconds),
        "phases_s": {name: round(value, 2) for name, value in phases.items()},
    }


def ask(store: Store, n_tokens: int, n_layers: int) -> dict[str, Any]:
    """Milliseconds of each query: the first time in a fresh connection, and the median of ten more."""
    times = {}
    for name, sql in QUERIES.items():
        sql = sql.format(layer=n_layers // 2, tok=n_tokens // 3)
        con = store.connect()
        taken = []
        for _ in range(11):
            at = time.perf_counter()
            con.execute(sql).fetchall()
            taken.append((time.perf_counter() - at) * 1e3)
        con.close()
        times[name] = {"first_ms": round(taken[0], 1), "again_ms": round(statistics.median(taken[1:]), 1)}
    return times


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--tokens", type=int, default=None)
    parser.add_argument("--store", type=Path, default=None)
    parser.add_argument("--json", type=Path, default=None, help="Also write the results here.")
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    n_tokens = options.tokens or (16_384 if options.tiny else 2**20)
    model = make_model(options.tiny, device)
    batch = 1024 if options.tiny else 8192
    results: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "parameters": sum(p.numel() for p in model.model.parameters()),
        "experts": getattr(model.model.config, "_experts_implementation", None),
    }

    def show(name: str, value: Any) -> None:
        results[name] = value
        print(json.dumps({name: value}), flush=True)
        if options.json:
            options.json.write_text(json.dumps(results, indent=1) + "\n")

    show("same_loss", same_loss(model))
    sizes = [batch] if options.tiny else [4096, batch, 2 * batch]
    for size in sizes:
        show(
            f"overhead_{size}", overhead(model, size, rounds=3 if options.tiny else 10, passes=2 if options.tiny else 4)
        )
    with tempfile.TemporaryDirectory() as folder:
        store = Store(options.store or Path(folder) / "store", create=True)
        written = job(model, store, n_tokens, batch)
        show("store", written)
        show("queries_before_sealing", ask(store, n_tokens, model.n_layers))
        show("seal_s", round(timed(lambda: seal(store, written["run_id"])), 2))
        show("queries_sealed", ask(store, n_tokens, model.n_layers))
    assert results["same_loss"]["loss_equal_bit_for_bit"] or not results["same_loss"]["loss_is_deterministic"]


if __name__ == "__main__":
    main()
