"""The training job: from a config to dictionaries in the store, with their figures on held-out text."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch

from sparse_rep import __version__
from sparse_rep.activations import ActivationSource
from sparse_rep.config import TrainConfig
from sparse_rep.corpora.source import CachedActivations, ModelActivations
from sparse_rep.corpora.tokenised import Corpus, build_corpus
from sparse_rep.errors import ConfigError
from sparse_rep.evaluation.reconstruction import Metric
from sparse_rep.hosting.load import load_model, load_tokenizer, resolve_device
from sparse_rep.hosting.model import HostedModel
from sparse_rep.jobs.metric_rows import MetricRows
from sparse_rep.jobs.naming import dictionary_name, run_hash
from sparse_rep.jobs.scoring import score
from sparse_rep.jobs.sweep import members
from sparse_rep.jobs.together import SharedActivations, launched, on_own_device, told, wait
from sparse_rep.kernels import ops
from sparse_rep.progress import Reporter
from sparse_rep.saes.formats.stored import save_dictionary
from sparse_rep.saes.ranks import current
from sparse_rep.saes.registry import build_coder
from sparse_rep.saes.training.trainer import train
from sparse_rep.store import RunWriter, Store


def train_dictionary(config: TrainConfig, reporter: Reporter) -> dict[str, Any]:
    """`train_dictionaries` for one: the run's id, the dictionary's id (they are equal) and its final metrics."""
    (trained,) = train_dictionaries(config, reporter)
    return trained


def train_dictionaries(config: TrainConfig, reporter: Reporter) -> list[dict[str, Any]]:
    """Train a dictionary, or all of a sweep on one stream of activations, score them on held-out documents, save them.

    They are saved under <store>/dictionaries. Returns for each the run's id, its own and its final metrics. A run that is
    done already is not done again; one that was cut short goes on from its last checkpoint. Raises ConfigError for settings
    that cannot work.

    Under torchrun all processes train and the first has the result; the others return nothing.
    """
    varied = members(config)
    with launched():
        config = on_own_device(config)
        resolve_device(config.model.device)  # wrong ones are told before anything is read
        if not current().first:
            reporter = Reporter(silent=True)
        store = Store(config.store, create=True)
        reporter.say(f"reading text from {', '.join(config.text.sources)}")
        corpus = _corpus(config, store, reporter)
        return (_lead if current().first else _follow)(config, varied, store, corpus, reporter)


def _corpus(config: TrainConfig, store: Store, reporter: Reporter) -> Corpus:
    """Made by the first rank and read by the others."""
    if not current().first:
        wait()
    corpus = build_corpus(store, config.text, load_tokenizer(config.model, reporter.say), reporter)
    if current().first:
        wait()
    return corpus


def _lead(
    config: TrainConfig, varied: dict[str, TrainConfig], store: Store, corpus: Corpus, reporter: Reporter
) -> list[dict[str, Any]]:
    """The rank that writes: alone, all there is."""
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
        configs = _by_id(run.run_id, varied)
        done = run.status == "complete" and all(store.dictionary_path(name).exists() for name in configs)
        told((run.run_id, run.path, done))
        if done:
            reporter.say(f"{' and '.join(configs)} {'is' if len(configs) == 1 else 'are'} trained already")
        else:
            training = _Training(config, configs, store, corpus, run.path, reporter)
            run.update(model_revision=training.model.origin.revision, kernel=training.kernel)
            training.run(MetricRows(run))
            training.keep(run)
        wait()
        return [{"run_id": run.run_id, "dictionary_id": name, **_final_metrics(store, name)} for name in configs]


def _follow(
    config: TrainConfig, varied: dict[str, TrainConfig], store: Store, corpus: Corpus, reporter: Reporter
) -> list[dict[str, Any]]:
    """Every other rank: takes its share of each step and writes nothing."""
    run_id, path, done = told(None)
    configs = _by_id(run_id, varied)
    if not done:
        _Training(config, configs, store, corpus, path, reporter).run(None)
    wait()
    return []


def _by_id(run_id: str, varied: dict[str, TrainConfig]) -> dict[str, TrainConfig]:
    return {f"{run_id}-{word}" if word else run_id: member for word, member in varied.items()}


class _Training:
    """What is trained, and on what."""

    def __init__(
        self,
        config: TrainConfig,
        configs: dict[str, TrainConfig],
        store: Store,
        corpus: Corpus,
        path: Path,
        reporter: Reporter,
    ) -> None:
        self.config, self.configs, self.store, self.corpus, self.reporter = config, configs, store, corpus, reporter
        self.checkpoint = path / "checkpoint.pt"
        self.model = load_model(config.model, reporter.say)
        self.device = next(self.model.model.parameters()).device
        self.kernel = ops.backend_name(self.device, config.kernels)
        self.source = _source(config, self.model, corpus)
        self.coders = {
            name: build_coder(member.dictionary, self.source.d_in, config.kernels, self.source.d_out)
            for name, member in configs.items()
        }
        self.n_tokens = max(config.n_tokens // config.batch_tokens, 1) * config.batch_tokens
        self.seconds = 0.0

    def run(self, rows: MetricRows | None) -> None:
        """Train; metrics go to `rows`, if this rank is the one that has them."""
        config, started = self.config, time.monotonic()
        identity = {"corpus": self.corpus.corpus_id, **config.identity()}
        stream = _stream(config, self.source, self.store.path / "cache" / "activations", self.device, self.reporter)
        with self.reporter.task("training", self.n_tokens) as advance:
            train(
                self.coders,
                stream,
                config,
                device=self.device,
                dtype=precision(config, self.device),
                rates={name: member.lr for name, member in self.configs.items()},
                seeds={name: member.seed for name, member in self.configs.items()},
                share_latents=config.parallel == "latents" and current().world > 1,
                checkpoint=self.checkpoint,
                identity=json.loads(json.dumps(identity, default=str)),
                on_metrics=rows.add if rows else lambda name, step, values: None,
                on_step=lambda _, tokens: advance(tokens, rows.note() if rows else ""),
                on_checkpoint=rows.flush if rows else lambda step: None,
            )
        self.seconds = time.monotonic() - started

    def keep(self, run: RunWriter) -> None:
        """Score the dictionaries, save them, and close the run."""
        rows, config = MetricRows(run), self.config
        for coder in self.coders.values():
            coder.to(self.device).eval()
        norms = self.source.median_norms
        rows.final("heldout", score(self.coders, self.model, self.corpus, config, norms, self.reporter))
        rows.final(
            "train",
            {name: [Metric(None, "dead_share", float(c.dead.float().mean()))] for name, c in self.coders.items()},
        )
        for name, coder in self.coders.items():
            metadata = _metadata(self.configs[name], self.model, self.corpus, run.run_id)
            save_dictionary(coder, self.store.dictionary_path(name), metadata)
        run.finish()
        self.checkpoint.unlink(missing_ok=True)
        for name in self.coders:
            self.reporter.event("trained", dictionary_id=name, seconds=round(self.seconds, 2), tokens=self.n_tokens)


def precision(config: TrainConfig, device: torch.device) -> torch.dtype:
    """What products are computed in: as set, or bfloat16 on a CUDA device and float32 elsewhere."""
    if config.precision == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return getattr(torch, config.precision)


def _source(config: TrainConfig, model: HostedModel, corpus: Corpus) -> ModelActivations:
    if config.target_hook is not None:
        model.check(config.hook, config.target_hook)
        if model.hooks().index(config.target_hook) <= model.hooks().index(config.hook):
            raise ConfigError(
                f"{config.target_hook} does not come after {config.hook}: a transcoder predicts what is later"
            )
    return ModelActivations(
        model,
        corpus,
        config.hook,
        target_hook=config.target_hook,
        context=config.text.context,
        skip_positions=config.skip_positions,
        max_norm_ratio=config.max_norm_ratio,
    )


def _stream(
    config: TrainConfig, source: ModelActivations, cache: Path, device: torch.device, reporter: Reporter
) -> ActivationSource:
    """The source itself, or a copy of it on disk where it is passed over more than once and fits.

    Several ranks compute it in turn; a copy on disk is written by the first and read by all.
    """
    gib = source.n_tokens() * (source.d_in + (source.d_out or 0)) * 4 / 2**30
    if config.n_tokens <= source.n_tokens() or gib > config.cache_gib:
        return source if current().world == 1 else SharedActivations(source, device)
    cached = CachedActivations(source, cache)
    if current().first:
        with reporter.task("activations", source.n_tokens()) as advance:
            for chunk, _ in enumerate(cached.chunks()):
                advance(source.tokens(chunk))
    wait()
    return cached


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


def _final_metrics(store: Store, dictionary_id: str) -> dict[str, float]:
    rows = store.query(
        "SELECT metric, value FROM metrics WHERE dictionary_id = $id AND split = 'heldout' AND step IS NULL AND domain IS NULL",
        id=dictionary_id,
    )
    return dict(zip(rows["metric"].to_pylist(), rows["value"].to_pylist(), strict=True))
