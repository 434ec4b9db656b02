"""The extraction job: a corpus through a model and its dictionaries, into the store, shard by whole shard."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sparse_rep import __version__
from sparse_rep.config import ExtractConfig
from sparse_rep.corpora.tokenised import Corpus, build_corpus
from sparse_rep.errors import ConfigError
from sparse_rep.hosting.load import load_model, load_tokenizer, resolve_device
from sparse_rep.hosting.model import HostedModel
from sparse_rep.jobs.directions import feature_logits, feature_neighbors
from sparse_rep.jobs.naming import run_hash, slug
from sparse_rep.jobs.task import Executor, LocalExecutor, ShardTask
from sparse_rep.jobs.worker import ExtractWorker, Loaded
from sparse_rep.kernels import ops
from sparse_rep.progress import Reporter
from sparse_rep.saes.interop import load_sae_lens, read_cfg
from sparse_rep.store import RunWriter, Store


@dataclass(frozen=True)
class Source:
    """A dictionary to be used: where it lies and what it was made for."""

    dictionary_id: str
    directory: Path
    hook: str
    model: str | None


def extract(config: ExtractConfig, reporter: Reporter, executor: Executor | None = None) -> dict[str, Any]:
    """Encode a corpus with every dictionary of the config. Returns the run's id and what was written.

    Shards already committed are not done again, so the same call resumes a run that was stopped or killed. Raises
    ConfigError for dictionaries that do not fit the model, the hook or each other.
    """
    resolve_device(config.model.device)  # wrong ones are told before anything is read
    store = Store(config.store, create=True)
    sources = [find_dictionary(store, spec) for spec in config.dictionaries]
    for source in sources:
        if source.model not in (None, config.model.name):
            raise ConfigError(
                f"dictionary {source.dictionary_id} was made for {source.model}, not {config.model.name}; "
                f"give --model {source.model}"
            )
    reporter.say(f"reading text from {', '.join(config.text.sources)}")
    corpus = build_corpus(store, config.text, load_tokenizer(config.model, reporter.say), reporter)
    with store.open_run(
        kind="extract",
        name=config.name or slug("+".join(s.dictionary_id for s in sources))[:100],
        config=config.model_dump(mode="json"),
        config_hash=run_hash(config, corpus.corpus_id),
        corpus_id=corpus.corpus_id,
        model=config.model.name,
        code_version=__version__,
        n_tokens_planned=corpus.n_tokens,
    ) as run:
        with reporter.also_to(run.append_event):
            if run.status in ("complete", "sealed"):
                reporter.say(f"{run.run_id} is extracted already")
            else:
                _extract(config, sources, corpus, run, reporter, executor or LocalExecutor())
        run_id = run.run_id
    totals = store.query("SELECT status, n_rows, n_tokens, bytes FROM runs WHERE run_id = $run", run=run_id)
    return {"run_id": run_id, "corpus_id": corpus.corpus_id, **totals.to_pylist()[0]}


def find_dictionary(store: Store, spec: str) -> Source:
    """A dictionary by its id in the store, or by the path of a SAELens directory."""
    inside = store.path / "dictionaries" / spec
    directory = inside if inside.is_dir() else Path(spec).expanduser()
    if not directory.is_dir():
        known = sorted(p.name for p in (store.path / "dictionaries").glob("*/"))
        raise ConfigError(
            f"no dictionary {spec!r}: it is neither in {store.path / 'dictionaries'} "
            f"(there: {', '.join(known) or 'none'}) nor a directory; `sparse-rep train` makes one"
        )
    metadata = read_cfg(directory).get("metadata", {})
    hook = metadata.get("hook_name")
    if not hook:
        raise ConfigError(f"{directory}/cfg.json does not say which hook it reads (metadata.hook_name)")
    return Source(directory.name, directory, hook, metadata.get("model_name"))


def plan(corpus: Corpus, run_id: str, context: int, bos_id: int | None, shard_tokens: int) -> list[ShardTask]:
    """The run's shards: the same for the same corpus and settings, on any machine."""
    bounds = corpus.windows(context, bos_id).shards(shard_tokens)
    return [ShardTask(run_id=run_id, shard=i, tok_lo=lo, tok_hi=hi) for i, (lo, hi) in enumerate(bounds)]


def sampled_tokens(spec: str, n_tokens: int, seed: int) -> np.ndarray:
    """Tokens whose dense activations are kept, ascending: none, all, or sample:N without replacement."""
    if spec == "none":
        return np.empty(0, np.int64)
    wanted = n_tokens if spec == "all" else min(int(spec.partition(":")[2]), n_tokens)
    return np.sort(np.random.default_rng(seed).choice(n_tokens, wanted, replace=False))


def _extract(
    config: ExtractConfig,
    sources: list[Source],
    corpus: Corpus,
    run: RunWriter,
    reporter: Reporter,
    executor: Executor,
) -> None:
    model = load_model(config.model, reporter.say)
    dictionaries = [_load(config, source, model) for source in sources]
    tasks = plan(corpus, run.run_id, config.text.context, model.bos_id, config.shard_tokens)
    missing = [task for task in tasks if task.name not in run.committed]
    kernel = ops.backend_name(next(model.model.parameters()).device, config.kernels)
    run.update(model_revision=model.origin.revision, kernel=kernel, n_shards_planned=len(tasks))

    def make_worker() -> ExtractWorker:
        return ExtractWorker(
            model,
            corpus,
            dictionaries,
            context=config.text.context,
            batch_tokens=config.batch_tokens,
            sampled=sampled_tokens(config.activations, corpus.n_tokens, config.seed),
        )

    # Windows cover every document and documents every token, so a shard's range has no holes.
    sizes = {task.shard: task.tok_hi - task.tok_lo for task in tasks}
    done = sum(sizes.values()) - sum(sizes[task.shard] for task in missing)
    with reporter.task("extracting", sum(sizes.values()), done=done) as advance:
        for result in executor.map(make_worker, missing):
            at = time.perf_counter()
            run.write_shard(
                result.task.name,
                tok_lo=result.task.tok_lo,
                tok_hi=result.task.tok_hi,
                codes={name: (c.feature, c.tok, c.act) for name, c in result.codes.items()},
                activations={hook: (d.tok, d.x) for hook, d in result.activations.items()},
                tables=result.tables,
            )
            seconds = {**result.seconds, "write": time.perf_counter() - at}
            reporter.event("shard", shard=result.task.name, seconds={k: round(v, 4) for k, v in seconds.items()})
            advance(sizes[result.task.shard])
    reporter.say("relating latents to the vocabulary and to each other")
    for loaded in dictionaries:
        run.write_table("feature_logits", feature_logits(loaded, model), part=loaded.dictionary_id)
        run.write_table("feature_neighbors", feature_neighbors(loaded), part=loaded.dictionary_id)
    run.finish()


def _load(config: ExtractConfig, source: Source, model: HostedModel) -> Loaded:
    model.check(source.hook)
    coder = load_sae_lens(source.directory, config.kernels)
    if coder.d_in != model.width(source.hook):
        raise ConfigError(
            f"dictionary {source.dictionary_id} takes {coder.d_in} dimensions, but {source.hook} of "
            f"{model.origin.name} has {model.width(source.hook)}"
        )
    device = next(model.model.parameters()).device
    return Loaded(source.dictionary_id, source.hook, coder.to(device))
