"""The profile of attention heads: what each needs and what each sparse method keeps of it, on texts of one length."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, final

import torch
from torch import Tensor

from sparse_rep.attention.capture import attention_layers, attention_seen
from sparse_rep.attention.dense import Dense, dense
from sparse_rep.attention.effects import Effect, effects
from sparse_rep.attention.heads import profile_heads as profile_layer
from sparse_rep.attention.layer import LayerAttention
from sparse_rep.attention.memory import too_long, within_memory
from sparse_rep.attention.method import Method
from sparse_rep.attention.methods.registry import build_method, method_classes
from sparse_rep.attention.patterns import PATTERNS, classify
from sparse_rep.attention.score import score
from sparse_rep.attention.tables import HeadTables, head_codes
from sparse_rep.attention.weights import output_weight
from sparse_rep.config import HeadsConfig
from sparse_rep.corpora.tokenised import Corpus
from sparse_rep.corpora.windows import Batch
from sparse_rep.errors import ConfigError
from sparse_rep.hosting.model import HostedModel
from sparse_rep.jobs.capture import Capture, Found, Seen
from sparse_rep.jobs.coordinator import run_captures
from sparse_rep.jobs.naming import model_name, slug
from sparse_rep.jobs.task import Executor
from sparse_rep.kernels.attention import BLOCK
from sparse_rep.progress import Reporter
from sparse_rep.store import RunWriter, Store
from sparse_rep.store.queries import queries

SPARE = 16
"""Tokens read for each token wanted, where the config does not say how many: many documents are shorter than a text."""


def profile_heads(config: HeadsConfig, reporter: Reporter, executor: Executor | None = None) -> dict[str, Any]:
    """Profile every head of a model and score methods on it. Returns the run's id and what was written.

    Texts already committed are not done again, so the same call resumes a run that was stopped or killed.

    Raises:
        ConfigError: a model without attention that can be seen, a length beyond its positions or the corpus's documents, an
            unknown method or setting, or no room on the GPU.
    """
    methods = chosen_methods(config)
    length = config.text.context
    tokens = config.text.n_tokens or max(config.texts * length * SPARE, 2**16)
    text = config.text.model_copy(update={"n_tokens": tokens, "document_tokens": config.text.document_tokens or length})
    config = config.model_copy(update={"text": text})
    capture = HeadCapture(config, methods, reporter)
    name = slug(f"{model_name(config.model.name)}-heads-{length}")
    summary = run_captures(config, [capture], kind="heads", name=name, reporter=reporter, executor=executor)
    sql = "SELECT count(*) AS n FROM {} WHERE run_id = $run"
    store = Store(config.store)
    counts = {t: store.query(sql.format(t), run=summary["run_id"])["n"][0].as_py() for t in ("heads", "head_methods")}
    return {**summary, **counts}


def chosen_methods(config: HeadsConfig) -> list[Method]:
    """The methods of a config. Raises ConfigError for an unknown name or setting."""
    names = [name for name in config.methods if name != "none"]
    if "all" in names:
        names = list(method_classes())
    stray = set(config.settings) - set(names)
    if stray:
        raise ConfigError(f"settings are given for {', '.join(sorted(stray))}, which --methods does not name")
    return [build_method(name, config.settings.get(name)) for name in names]


@final
class HeadCapture(Capture):
    """Profiles each layer while the model reads, and keeps nothing of it but rows."""

    def __init__(self, config: HeadsConfig, methods: list[Method], reporter: Reporter) -> None:
        self._config, self._methods, self._reporter = config, methods, reporter
        self._length = config.text.context
        self._budgets = [None if budget == "paper" else float(budget) for budget in config.budgets]
        self._tables, self._seconds = HeadTables(), 0.0
        self._lengths: list[int] = []
        self._texts_of_rows: dict[int, tuple[Tensor, int]] = {}
        self._writes: dict[tuple[int, int], Tensor] = {}

    def fit(self, model: HostedModel, corpus: Corpus) -> dict[str, Any]:
        if self._length > model.context_length:
            raise ConfigError(f"{model.origin.name} has {model.context_length} positions: lower --length to that")
        layers = attention_layers(model)
        stray = sorted(set(self._config.maps) - set(layers))
        if stray:
            raise ConfigError(f"maps are wanted of layers {stray}, but {model.origin.name} has attention in {layers}")
        self._model, self._corpus, self._layers = model, corpus, layers
        self.hooks = [f"blocks.{layers[-1]}.attn.hook_z"]
        self._bos = int(model.bos_id is not None)
        windows = corpus.windows(self._length, model.bos_id)
        whole = windows.lo[windows.hi - windows.lo == windows.room].tolist()
        if not whole:
            longest = max((hi - lo for lo, hi in corpus.bounds()), default=0) + self._bos
            raise ConfigError(
                f"no document of the text has {self._length} tokens, the longest has {longest}: "
                "lower --length, or give longer documents with --text or more of them with --text-tokens"
            )
        self._texts = set(whole[: self._config.texts])
        if len(whole) < self._config.texts:
            self._reporter.say(f"only {len(whole)} texts of {self._length} tokens are there, not {self._config.texts}")
        return {"kernel": "triton" if model.device.startswith("cuda") else "torch"}

    def reads(self, tok_lo: int, tok_hi: int) -> bool:
        return any(tok_lo <= text < tok_hi for text in self._texts)

    @contextmanager
    def attached(self) -> Iterator[None]:
        try:
            with attention_seen(self._model, self._visit, self._lengths):
                yield
        except torch.cuda.OutOfMemoryError as error:
            raise too_long(self._length) from error

    def before(self, batch: Batch) -> bool:
        """Wanted where it holds a text. Which rows do is told by their first token; others are read beside them and not seen."""
        self._lengths[:] = batch.attention_mask.sum(1).tolist()
        first = batch.tok[torch.cat([torch.zeros(1, dtype=torch.int64), batch.real.sum(1).cumsum(0)[:-1]])].tolist()
        self._texts_of_rows = {
            row: (batch.input_ids[row], tok_lo)
            for row, (tok_lo, n) in enumerate(zip(first, self._lengths, strict=True))
            if tok_lo in self._texts and n == self._length
        }
        self._spoken = time.monotonic()
        return bool(self._texts_of_rows)

    def see(self, seen: Seen) -> None:
        for row, (_, tok_lo) in self._texts_of_rows.items():
            writes = torch.cat([self._writes.pop((layer, row)) for layer in self._layers])[:, self._bos :]
            tok = torch.arange(tok_lo, tok_lo + writes.shape[1])
            self._tables.add_writes(head_codes(writes), tok)

    def take(self) -> Found:
        found = Found(tables=self._tables.take(), seconds={"heads": self._seconds})
        self._seconds = 0.0
        return found

    def _visit(self, layer: LayerAttention, row: int) -> Tensor | None:
        if row not in self._texts_of_rows:
            return None
        at = time.perf_counter()
        truth = within_memory(lambda: dense(layer), layer.n)
        self._profile(layer, truth, row)
        self._score(layer, truth, self._texts_of_rows[row][1])
        self._seconds += time.perf_counter() - at
        if time.monotonic() - self._spoken > self._reporter.quiet_seconds:
            self._spoken = time.monotonic()
            self._reporter.say(f"layer {layer.layer + 1} of {len(self._layers)}")
        return truth.out

    def _profile(self, layer: LayerAttention, truth: Dense, row: int) -> None:
        ids, tok_lo = self._texts_of_rows[row]
        weight = output_weight(self._model, layer.layer, layer.n_heads)
        budget = self._config.class_budget
        profile = within_memory(lambda: profile_layer(truth, ids, weight, budget), layer.n)
        self._writes[layer.layer, row] = profile.writes.float()
        self._tables.add_profile(layer, tok_lo, profile, budget)
        if self._config.links:
            self._tables.add_links(truth, tok_lo, self._bos, self._config.links)
        if layer.layer in self._config.maps:
            self._tables.add_map(truth, tok_lo, BLOCK)

    def _score(self, layer: LayerAttention, truth: Dense, tok_lo: int) -> None:
        asked = [(m, budget, m.applies(layer.context)) for m in self._methods for budget in self._budgets]
        applied = [(m, budget) for m, budget, applies in asked if applies.holds]
        estimates = [within_memory(lambda m=m, b=b: m.estimate(layer, b), layer.n) for m, b in applied]
        found = iter(zip(estimates, within_memory(lambda: score(truth, estimates), layer.n), strict=True))
        for method, budget, applies in asked:
            scored = next(found) if applies.holds else None
            self._tables.add_scores(layer, tok_lo, method, budget, applies, scored)

    def finish(self, run: RunWriter, store: Store) -> None:
        rows = store.query(queries()["head_totals.profiles"].sql, run=run.run_id).to_pydict()
        recalls = torch.tensor([rows.pop(f"recall_{name}") for name in PATTERNS], dtype=torch.float64)
        names, recall, margin = classify(recalls)
        rows |= {"class": names, "class_recall": recall.tolist(), "class_margin": margin.tolist()}
        run.write_table("heads", rows)
        methods = store.query(queries()["head_totals.methods"].sql, run=run.run_id)
        run.write_table("head_methods", methods)
        if self._config.effects != "none":
            run.write_table("head_effects", self._effects(self._config.effects))

    def _effects(self, scope: Literal["model", "layers", "heads"]) -> dict[str, list[Any]]:
        windows = self._corpus.windows(self._length, self._model.bos_id)
        first = [i for i, lo in enumerate(windows.lo) if int(lo) in self._texts]
        ids = [
            b.input_ids for i in first for b in windows.batches(self._corpus.token_ids, range(i, i + 1), self._length)
        ]
        self._reporter.say("measuring what the methods cost the model")
        found = effects(self._model, ids, self._methods, self._budgets, self._layers, scope)
        columns = {name: [getattr(effect, name) for effect in found] for name in Effect.__dataclass_fields__}
        return {**columns, "length": [self._length] * len(found), "n_texts": [len(ids)] * len(found)}
