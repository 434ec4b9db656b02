"""The ablation job: a model without each of some experts in turn, its loss by domain, and the latents that move."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparse_rep import __version__
from sparse_rep.config import AblationConfig
from sparse_rep.corpora.tokenised import Corpus, build_corpus
from sparse_rep.errors import ConfigError
from sparse_rep.hosting.load import load_model, load_tokenizer, resolve_device
from sparse_rep.hosting.model import HostedModel
from sparse_rep.hosting.views import Identity, Transform
from sparse_rep.jobs.dictionaries import Loaded, find_dictionary, load_dictionary
from sparse_rep.jobs.naming import model_name, run_hash, slug
from sparse_rep.progress import Reporter
from sparse_rep.routing.ablation import ExpertAblation, Losses, compare, document_losses
from sparse_rep.routing.families import Router, find_routers
from sparse_rep.store import RunWriter, Store

FEATURES_KEPT = 100
"""Latents that move most, kept for each expert and dictionary."""


def ablate_experts(config: AblationConfig, reporter: Reporter) -> dict[str, Any]:
    """Measure a model without each expert of the config. Returns the run's id and the experts that matter most.

    An expert is the unit that is written whole: the same call resumes a run that was cut short.

    Raises:
        ConfigError: a dense model, experts that are not there, or a dictionary that does not fit.
    """
    resolve_device(config.model.device)
    store = Store(config.store, create=True)
    sources = [find_dictionary(store, spec) for spec in config.dictionaries]
    corpus = build_corpus(store, config.text, load_tokenizer(config.model, reporter.say), reporter)
    with (
        store.open_run(
            kind="ablation",
            name=config.name or slug(f"{model_name(config.model.name)}-ablation"),
            config=config.model_dump(mode="json"),
            config_hash=run_hash(config, corpus.corpus_id),
            corpus_id=corpus.corpus_id,
            model=config.model.name,
            code_version=__version__,
        ) as run,
        reporter.also_to(run.append_event),
    ):
        if run.status in ("complete", "sealed"):
            reporter.say(f"{run.run_id} is done already")
        else:
            model = load_model(config.model, reporter.say)
            run.update(model_revision=model.origin.revision)
            experts = chosen_experts(config.experts, find_routers(model.model, config.routers))
            reading = Reading(model, corpus, config, [load_dictionary(s, model, "auto") for s in sources])
            _run(run, reading, experts, config, reporter)
        run_id = run.run_id
    worst = store.query(
        "SELECT layer, expert, change FROM expert_ablations WHERE run_id = $run AND domain IS NULL "
        "ORDER BY change DESC, layer, expert LIMIT 5",
        run=run_id,
    )
    return {"run_id": run_id, "corpus_id": corpus.corpus_id, "largest_changes": worst.to_pylist()}


def chosen_experts(spec: str, routers: list[Router]) -> list[tuple[int, int]]:
    """`all`, or comma-separated LAYER:EXPERT or LAYER (each of its experts), as (layer, expert)."""
    n_experts = {router.layer: router.n_experts for router in routers}
    if spec == "all":
        return [(layer, expert) for layer, n in n_experts.items() for expert in range(n)]
    found: list[tuple[int, int]] = []
    for word in spec.split(","):
        layer, colon, expert = word.strip().partition(":")
        if not layer.isdecimal() or (colon and not expert.isdecimal()):
            raise ConfigError(f"cannot read the experts {spec!r}: write all, or a list such as 3:17,3:40,7")
        n = n_experts.get(int(layer), 0)
        if n == 0 or (colon and int(expert) >= n):
            there = ", ".join(f"{at}:0 to {at}:{count - 1}" for at, count in n_experts.items())
            raise ConfigError(f"there is no expert {word.strip()}: this model has {there}")
        found += [(int(layer), int(expert))] if colon else [(int(layer), e) for e in range(n)]
    return list(dict.fromkeys(found))


@dataclass(frozen=True)
class Measured:
    """What a model did on the text, as it is or changed."""

    losses: Losses
    active: dict[str, np.ndarray]
    """By dictionary: tokens on which each latent is active (m)."""
    mass: dict[str, np.ndarray]
    """Its summed activation (m)."""


class Reading:
    """A model, a text and dictionaries: `measure` reads the text with the model under a transform."""

    def __init__(self, model: HostedModel, corpus: Corpus, config: AblationConfig, dictionaries: list[Loaded]) -> None:
        self.model, self.corpus, self.dictionaries = model, corpus, dictionaries
        self._windows = corpus.windows(config.text.context, model.bos_id)
        self._batch_tokens = config.batch_tokens
        self._starts = torch.tensor(corpus.docs["tok_lo"])

    @torch.no_grad()
    def measure(self, transform: Transform) -> Measured:
        documents = len(self._starts)
        total, n = torch.zeros(documents, dtype=torch.float64), torch.zeros(documents, dtype=torch.int64)
        sums = {d.dictionary_id: [Tensor(), Tensor()] for d in self.dictionaries}
        with transform.apply(self.model):
            for losses, tok, rows in self._batches():
                more, count = document_losses(losses, tok, self._starts, documents)
                total, n = total + more, n + count
                for loaded in self.dictionaries:
                    active, mass = _used(loaded, rows[loaded.hook])
                    held = sums[loaded.dictionary_id]
                    sums[loaded.dictionary_id] = (
                        [active, mass] if not len(held[0]) else [held[0] + active, held[1] + mass]
                    )
        return Measured(
            Losses(total.numpy(), n.numpy()),
            {name: active.cpu().numpy() for name, (active, _) in sums.items()},
            {name: mass.cpu().numpy() for name, (_, mass) in sums.items()},
        )

    def _batches(self) -> Iterator[tuple[Tensor, Tensor, dict[str, Tensor]]]:
        """Losses of next tokens, the tokens that were predicted, and activations at the dictionaries' hooks."""
        hooks = list(dict.fromkeys(d.hook for d in self.dictionaries))
        for batch in self._windows.batches(self.corpus.token_ids, range(len(self._windows)), self._batch_tokens):
            losses = self.model.loss(batch.input_ids, batch.attention_mask).cpu()
            tok = torch.full(batch.real.shape, -1, dtype=torch.int64).masked_scatter(batch.real, batch.tok)
            predicted = batch.real[:, 1:]
            found = self.model.capture(batch.input_ids, batch.attention_mask, hooks) if hooks else {}
            rows = {hook: x[batch.real.to(x.device)] for hook, x in found.items()}
            yield losses[predicted], tok[:, 1:][predicted], rows


def _used(loaded: Loaded, x: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens on which each latent is active, and its summed activation (m)."""
    codes = loaded.coder.encode(x).coalesce()
    at = codes.indices[codes.active].long()
    mass = torch.zeros(codes.n_units, dtype=torch.float64, device=at.device)
    return torch.bincount(at, minlength=codes.n_units), mass.index_add(0, at, codes.values[codes.active].double())


def _run(
    run: RunWriter, reading: Reading, experts: list[tuple[int, int]], config: AblationConfig, reporter: Reporter
) -> None:
    done = run.manifest.tables.get("expert_ablations", {})
    missing = [expert for expert in experts if _part(*expert) not in done]
    if missing:
        reporter.say("reading the text with the model as it is")
        before = reading.measure(Identity())
        with reporter.task("ablating", len(experts), unit="experts", done=len(experts) - len(missing)) as advance:
            for layer, expert in missing:
                after = reading.measure(ExpertAblation([(layer, expert)], mapping=config.routers))
                if reading.dictionaries:
                    moved = _moved(reading, before, after)
                    run.write_table(
                        "expert_ablation_features",
                        {"layer": layer, "expert": expert, **moved},
                        part=_part(layer, expert),
                    )
                losses = _by_domain(reading.corpus, before.losses, after.losses)
                run.write_table(
                    "expert_ablations", {"layer": layer, "expert": expert, **losses}, part=_part(layer, expert)
                )
                advance(1)
    run.finish()


def _part(layer: int, expert: int) -> str:
    return f"{layer:04d}-{expert:05d}"


def _by_domain(corpus: Corpus, before: Losses, after: Losses) -> dict[str, list[Any]]:
    domains = np.array(corpus.docs["domain"])
    scored = before.n > 0
    rows = [(None, compare(before, after, scored))]
    rows += [(d, compare(before, after, scored & (domains == d))) for d in sorted(set(domains[scored]))]
    return {
        "domain": [domain for domain, _ in rows],
        "n_tokens": [r.n_tokens for _, r in rows],
        "loss": [r.loss for _, r in rows],
        "loss_ablated": [r.loss_after for _, r in rows],
        "change": [r.change for _, r in rows],
        "lo": [None if np.isnan(r.lo) else r.lo for _, r in rows],
        "hi": [None if np.isnan(r.hi) else r.hi for _, r in rows],
    }


def _moved(reading: Reading, before: Measured, after: Measured) -> dict[str, Any]:
    """The latents of each dictionary whose summed activation changes most."""
    columns: dict[str, list[Any]] = {
        c: [] for c in ("dictionary_id", "feature", "n_before", "n_after", "mass_before", "mass_after")
    }
    for loaded in reading.dictionaries:
        name = loaded.dictionary_id
        change = np.abs(after.mass[name] - before.mass[name])
        most = np.argsort(-change, kind="stable")[:FEATURES_KEPT]
        most = most[change[most] > 0]
        columns["dictionary_id"] += [name] * len(most)
        columns["feature"] += most.tolist()
        for when, measured in (("before", before), ("after", after)):
            columns[f"n_{when}"] += measured.active[name][most].tolist()
            columns[f"mass_{when}"] += measured.mass[name][most].tolist()
    return columns
