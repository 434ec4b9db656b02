"""The job that every capture is: a corpus through a model, into the store, shard by whole shard."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from sparse_rep import __version__
from sparse_rep.config import CaptureConfig
from sparse_rep.corpora.tokenised import Corpus, build_corpus
from sparse_rep.hosting.load import load_model, load_tokenizer, resolve_device
from sparse_rep.hosting.model import HostedModel
from sparse_rep.jobs.capture import Capture
from sparse_rep.jobs.naming import run_hash
from sparse_rep.jobs.task import Executor, LocalExecutor, ShardTask
from sparse_rep.jobs.worker import CaptureWorker
from sparse_rep.progress import Reporter
from sparse_rep.store import RunWriter, Store


def run_captures(
    config: CaptureConfig,
    captures: Sequence[Capture],
    *,
    kind: str,
    name: str,
    reporter: Reporter,
    executor: Executor | None = None,
) -> dict[str, Any]:
    """Take every capture from a corpus, in one pass, into one run. Returns the run's id and what was written.

    `name` is the run's where the config gives none. Shards already committed are not done again, so the same call resumes a
    run that was stopped or killed. Raises ConfigError for settings that do not fit the model, before any work is done.
    """
    resolve_device(config.model.device)  # wrong ones are told before anything is read
    store = Store(config.store, create=True)
    reporter.say(f"reading text from {', '.join(config.text.sources)}")
    corpus = build_corpus(store, config.text, load_tokenizer(config.model, reporter.say), reporter)
    with store.open_run(
        kind=kind,
        name=config.name or name,
        config=config.model_dump(mode="json"),
        config_hash=run_hash(config, corpus.corpus_id),
        corpus_id=corpus.corpus_id,
        model=config.model.name,
        code_version=__version__,
        n_tokens_planned=corpus.n_tokens,
    ) as run:
        with reporter.also_to(run.append_event):
            if run.status in ("complete", "sealed"):
                reporter.say(f"{run.run_id} is done already")
            else:
                model = load_model(config.model, reporter.say)
                fill(run, store, model, corpus, captures, config, reporter, executor or LocalExecutor())
        run_id = run.run_id
    totals = store.query("SELECT status, n_rows, n_tokens, bytes FROM runs WHERE run_id = $run", run=run_id)
    return {"run_id": run_id, "corpus_id": corpus.corpus_id, **totals.to_pylist()[0]}


def plan(corpus: Corpus, run_id: str, context: int, bos_id: int | None, shard_tokens: int) -> list[ShardTask]:
    """The run's shards: the same for the same corpus and settings, on any machine."""
    bounds = corpus.windows(context, bos_id).shards(shard_tokens)
    return [ShardTask(run_id=run_id, shard=i, tok_lo=lo, tok_hi=hi) for i, (lo, hi) in enumerate(bounds)]


def fill(
    run: RunWriter,
    store: Store,
    model: HostedModel,
    corpus: Corpus,
    captures: Sequence[Capture],
    config: CaptureConfig,
    reporter: Reporter,
    executor: Executor,
) -> None:
    """Do what is missing of an open run, and finish it. Of `config` the context and the sizes of shards and batches count."""
    facts: dict[str, Any] = {}
    for capture in captures:
        facts |= capture.fit(model, corpus)
    shards = plan(corpus, run.run_id, config.text.context, model.bos_id, config.shard_tokens)
    tasks = [t for t in shards if any(capture.reads(t.tok_lo, t.tok_hi) for capture in captures)]
    missing = [task for task in tasks if task.name not in run.committed]
    planned = sum(task.tok_hi - task.tok_lo for task in tasks)
    run.update(model_revision=model.origin.revision, n_shards_planned=len(tasks), n_tokens_planned=planned, **facts)

    def make_worker() -> CaptureWorker:
        return CaptureWorker(model, corpus, captures, context=config.text.context, batch_tokens=config.batch_tokens)

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
    reporter.say("computing what is known of the whole run")
    for capture in captures:
        capture.finish(run, store)
    run.finish()
