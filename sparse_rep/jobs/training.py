"""The training job: from a config to a dictionary in the store, with its figures on held-out text."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from sparse_rep import __version__
from sparse_rep.activations import ActivationBatch, ActivationSource
from sparse_rep.config import TrainConfig
from sparse_rep.corpora.source import CachedActivations, ModelActivations, captured
from sparse_rep.corpora.tokenised import Corpus, build_corpus
from sparse_rep.errors import ConfigError
from sparse_rep.evaluation.reconstruction import Metric, ScoredBatch, reconstruction_metrics
from sparse_rep.evaluation.splicing import splice_losses
from sparse_rep.hosting.load import load_model, load_tokenizer, resolve_device
from sparse_rep.hosting.model import HostedModel
from sparse_rep.jobs.naming import dictionary_name, run_hash
from sparse_rep.kernels import ops
from sparse_rep.progress import Reporter
from sparse_rep.saes.coder import Dictionary
from sparse_rep.saes.registry import build_coder
from sparse_rep.saes.saved import save_dictionary
from sparse_rep.saes.trainer import train
from sparse_rep.store import RunWriter, Store

SPLICE_WINDOWS = 8
"""Held-out windows on which the loss with the dictionary spliced in is measured: the whole model runs three times on each."""


def train_dictionary(config: TrainConfig, reporter: Reporter) -> dict[str, Any]:
    """Train a dictionary, score it on held-out documents, and save it under <store>/dictionaries.

    Returns the run's id, the dictionary's id (they are equal) and its final metrics. A run that is done already is not
    done again; one that was cut short goes on from its last checkpoint. Raises ConfigError for settings that cannot work.
    """
    resolve_device(config.model.device)  # wrong ones are told before anything is read
    store = Store(config.store, create=True)
    reporter.say(f"reading text from {', '.join(config.text.sources)}")
    corpus = build_corpus(store, config.text, load_tokenizer(config.model, reporter.say), reporter)
    with (
        store.open_run(
            kind="train",
            name=config.name or dictionary_name(config),
            config=config.model_dump(mode="json"),
            config_hash=run_hash(config, corpus.corpus_id),
            corpus_id=corpus.corpus_id,
            model=config.model.name,
            code_version=__version__,
        ) as run,
        reporter.also_to(run.append_event),
    ):
        directory = store.dictionary_path(run.run_id)
        if run.status == "complete" and directory.exists():
            reporter.say(f"dictionary {run.run_id} is trained already")
        else:
            _train(config, store, corpus, run, directory, reporter)
        return {"run_id": run.run_id, "dictionary_id": run.run_id, **_final_metrics(store, run.run_id)}


def _train(
    config: TrainConfig, store: Store, corpus: Corpus, run: RunWriter, directory: Path, reporter: Reporter
) -> None:
    model = load_model(config.model, reporter.say)
    device = next(model.model.parameters()).device
    if config.target_hook is not None:
        model.check(config.hook, config.target_hook)
        if model.hooks().index(config.target_hook) <= model.hooks().index(config.hook):
            raise ConfigError(
                f"{config.target_hook} does not come after {config.hook}: a transcoder predicts what is later"
            )
    source = ModelActivations(
        model,
        corpus,
        config.hook,
        target_hook=config.target_hook,
        context=config.text.context,
        skip_positions=config.skip_positions,
        max_norm_ratio=config.max_norm_ratio,
    )
    run.update(model_revision=model.origin.revision, kernel=ops.backend_name(device, config.kernels))
    coder = build_coder(config.dictionary, source.d_in, config.kernels, source.d_out)
    rows = MetricRows(run, run.run_id)
    started = time.monotonic()
    n_tokens = max(config.n_tokens // config.batch_tokens, 1) * config.batch_tokens
    stream = _stream(config, source, store.path / "cache" / "activations", reporter)
    with reporter.task("training", n_tokens) as advance:
        train(
            {run.run_id: coder},
            stream,
            config,
            device=device,
            checkpoint=run.path / "checkpoint.pt",
            identity=run.run_id,
            on_metrics=lambda _, step, values: rows.add(step, values),
            on_step=lambda _, tokens: advance(tokens, rows.note()),
            on_checkpoint=rows.flush,
        )
    seconds = time.monotonic() - started
    coder.eval()
    metrics = score(coder, model, corpus, config, source.median_norms, reporter)
    rows.final("heldout", metrics)
    rows.final("train", [Metric(None, "dead_share", float(coder.dead.float().mean()))])
    save_dictionary(coder, directory, _metadata(config, model, corpus, run.run_id))
    run.finish()
    (run.path / "checkpoint.pt").unlink(missing_ok=True)
    reporter.event("trained", dictionary_id=run.run_id, seconds=round(seconds, 2), tokens=n_tokens)


def _stream(config: TrainConfig, source: ModelActivations, cache: Path, reporter: Reporter) -> ActivationSource:
    """The source itself, or a copy of it on disk where it is passed over more than once and fits."""
    gib = source.n_tokens() * (source.d_in + (source.d_out or 0)) * 4 / 2**30
    if config.n_tokens <= source.n_tokens() or gib > config.cache_gib:
        return source
    cached = CachedActivations(source, cache)
    with reporter.task("activations", source.n_tokens()) as advance:
        for chunk, _ in enumerate(cached.chunks()):
            advance(source.tokens(chunk))
    return cached


def score(
    coder: Dictionary,
    model: HostedModel,
    corpus: Corpus,
    config: TrainConfig,
    median_norms: dict[str, float],
    reporter: Reporter,
) -> list[Metric]:
    """Every metric on the held-out documents; empty where the corpus holds none out."""
    windows = corpus.windows(config.text.context, model.bos_id, "heldout")
    if not len(windows):
        reporter.say("no documents are held out, so the dictionary is not scored; see text.heldout_share")
        return []
    domains = sorted(set(corpus.docs["domain"]))
    starts = torch.tensor(corpus.docs["tok_lo"])
    domain_of_doc = torch.tensor([domains.index(d) for d in corpus.docs["domain"]])

    target_hook = config.target_hook

    def batches() -> Iterator[ScoredBatch]:
        with reporter.task("scoring", windows.n_tokens) as advance:
            for part in captured(model, windows, corpus.token_ids, range(len(windows)), list(median_norms), 4096):
                x, target = part.x[config.hook], None if target_hook is None else part.x[target_hook]
                domain = domain_of_doc[torch.searchsorted(starts, part.tok.cpu(), right=True) - 1]
                scored = part.position >= config.skip_positions
                for hook, norm in median_norms.items():
                    scored &= part.x[hook].norm(dim=-1) <= config.max_norm_ratio * norm
                yield ScoredBatch(ActivationBatch(x, part.tok, target=target), domain.to(x.device), scored)
                advance(len(x))

    metrics = reconstruction_metrics(coder, batches(), domains)
    reporter.say("measuring the model's loss with the dictionary spliced in")
    spread = range(0, len(windows), max(len(windows) // SPLICE_WINDOWS, 1))[:SPLICE_WINDOWS]
    pairs = (
        (batch.input_ids, batch.attention_mask)
        for index in spread
        for batch in windows.batches(corpus.token_ids, range(index, index + 1), 4096)
        if batch.input_ids.shape[1] > config.skip_positions + 1
    )
    losses = splice_losses(model, coder, config.hook, pairs, config.skip_positions, target_hook)
    return metrics + [Metric(None, name, value) for name, value in losses.items()]


class MetricRows:
    """Rows of the `metrics` table: gathered while training, written at each checkpoint so that a resumed run has each once."""

    def __init__(self, run: RunWriter, dictionary_id: str) -> None:
        self._run, self._dictionary_id = run, dictionary_id
        self._pending: list[tuple[int, str, float]] = []
        self._last: dict[str, float] = {}

    def add(self, step: int, values: dict[str, float]) -> None:
        if "fvu" in values:
            values = {"explained_variance": 1 - values["fvu"], **values}
        self._last = values
        self._pending += [(step, name, value) for name, value in values.items()]

    def note(self) -> str:
        """The latest figures, for a progress bar."""
        if "explained_variance" not in self._last:
            return ""
        return f"explained variance {self._last['explained_variance']:.3f}, dead {self._last.get('dead_share', 0):.1%}"

    def flush(self, step: int) -> None:
        if self._pending:
            steps, names, values = zip(*self._pending, strict=True)
            self._write(f"train-{step:09d}", ["train"] * len(steps), [None] * len(steps), steps, names, values)
            self._pending = []

    def final(self, split: str, metrics: list[Metric]) -> None:
        n = len(metrics)
        domains, names = [m.domain for m in metrics], [m.name for m in metrics]
        if n:
            self._write(f"final-{split}", [split] * n, domains, [None] * n, names, [m.value for m in metrics])

    def _write(self, part: str, split: Any, domain: Any, step: Any, metric: Any, value: Any) -> None:
        columns = {"split": split, "domain": domain, "step": step, "metric": metric, "value": value}
        ids = [self._dictionary_id] * len(columns["metric"])
        self._run.write_table("metrics", {"dictionary_id": ids, **columns}, part=part)


def _metadata(config: TrainConfig, model: HostedModel, corpus: Corpus, run_id: str) -> dict[str, Any]:
    """cfg.json's metadata: sae-lens' names where it has one, ours under sparse_rep_*."""
    return {
        "model_name": model.origin.name,
        "hook_name": config.hook,
        **({} if config.target_hook is None else {"hook_name_out": config.target_hook}),
        "context_size": config.text.context,
        "prepend_bos": model.bos_id is not None,
        "dataset_path": ",".join(config.text.sources),
        "sparse_rep_run_id": run_id,
        "sparse_rep_corpus_id": corpus.corpus_id,
        "sparse_rep_model_revision": model.origin.revision,
        "sparse_rep_model_note": model.origin.note,
        "sparse_rep_version": __version__,
        "sparse_rep_created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "sparse_rep_config": config.identity(),
    }


def _final_metrics(store: Store, run_id: str) -> dict[str, float]:
    rows = store.query(
        "SELECT metric, value FROM metrics WHERE run_id = $run AND split = 'heldout' AND step IS NULL AND domain IS NULL",
        run=run_id,
    )
    return dict(zip(rows["metric"].to_pylist(), rows["value"].to_pylist(), strict=True))
