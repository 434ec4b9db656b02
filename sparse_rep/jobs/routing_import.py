"""Routing that a server returned, put into the store beside routing that we captured."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from sparse_rep import __version__
from sparse_rep.config import RoutingConfig
from sparse_rep.corpora.tokenised import Corpus
from sparse_rep.corpora.vocabulary import tokenizer_digest, vocabulary
from sparse_rep.errors import ConfigError, DataError
from sparse_rep.hosting.load import load_config, load_tokenizer
from sparse_rep.jobs.naming import model_name, run_hash, slug
from sparse_rep.jobs.routing import totals
from sparse_rep.progress import Reporter
from sparse_rep.routing.analysis import write_analysis
from sparse_rep.routing.families import Router, find_routers
from sparse_rep.routing.importers import NONE, Routed, read_routed
from sparse_rep.store import RunWriter, Store
from sparse_rep.store.atomic import file_sha256


def import_routing(config: RoutingConfig, reporter: Reporter) -> dict[str, Any]:
    """Put the routed-expert ids of `config.routes` into the store. Returns the run's id and what was written.

    `config.model` is the model that was served; its config and tokenizer are read, its weights are not. Weights and margins
    are NULL: servers return ids only.

    Raises:
        DataError: a file of another format, model or tokenizer.
    """
    assert config.routes is not None
    say = reporter.say
    store = Store(config.store, create=True)
    tokenizer = load_tokenizer(config.model, say)
    routers = routers_of(config, say)
    requests = list(read_routed(config.routes, routers))
    if not requests:
        raise DataError(f"{config.routes} holds no request")
    check_tokenizer(requests, tokenizer, config)
    corpus = put_requests(store, requests, tokenizer, config.routes)
    with (
        store.open_run(
            kind="routing",
            name=config.name or slug(f"{model_name(config.model.name)}-{requests[0].server}"),
            config=config.model_dump(mode="json"),
            config_hash=run_hash(config, f"{corpus.corpus_id} {file_sha256(config.routes)}"),
            corpus_id=corpus.corpus_id,
            model=config.model.name,
            code_version=__version__,
            n_tokens_planned=corpus.n_tokens,
        ) as run,
        reporter.also_to(run.append_event),
    ):
        if run.status in ("complete", "sealed"):
            say(f"{run.run_id} is done already")
        else:
            _write(run, store, requests, routers)
        run_id = run.run_id
    files = [shard.tables["routes"] for shard in store.manifest(run_id).shards]
    return {
        "run_id": run_id,
        "corpus_id": corpus.corpus_id,
        "n_rows": sum(file.rows for file in files),
        "n_tokens": corpus.n_tokens,
        "n_requests": len(requests),
    }


def routers_of(config: RoutingConfig, say: Any) -> list[Router]:
    """Routers of a model whose weights are not loaded."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        routers = find_routers(AutoModelForCausalLM.from_config(load_config(config.model, say)), config.routers)
    if len({(r.n_experts, r.k) for r in routers}) > 1:
        raise ConfigError("routers of different widths cannot be told apart in what a server returns")
    return routers


def check_tokenizer(requests: list[Routed], tokenizer: Any, config: RoutingConfig) -> None:
    """Ids must be the tokenizer's, and where the server said what they read, they must read so."""
    for number, request in enumerate(requests, 1):
        where = f"{config.routes}, request {number}"
        largest = int(request.token_ids.max(initial=0))
        if largest >= len(tokenizer):
            raise DataError(
                f"{where}: token {largest}, but the tokenizer of {config.model.name} has {len(tokenizer):,}: the file is of "
                "another tokenizer; give the --model that was served"
            )
        if request.text and request.n_generated:
            read = tokenizer.decode(request.token_ids[-request.n_generated :].tolist(), skip_special_tokens=True)
            if request.text.strip() not in read and read.strip() not in request.text:
                raise DataError(
                    f"{where}: its tokens read {read[:40]!r} with the tokenizer of {config.model.name}, but the server says "
                    f"{request.text[:40]!r}: the file is of another tokenizer; give the --model that was served"
                )


def put_requests(store: Store, requests: list[Routed], tokenizer: Any, path: Path) -> Corpus:
    """The requests' tokens as a corpus, a document each."""
    ends = np.cumsum([len(r.token_ids) for r in requests]).tolist()
    docs: dict[str, list[Any]] = {
        "doc": list(range(len(requests))),
        "tok_lo": [0, *ends[:-1]],
        "tok_hi": ends,
        "domain": [r.server for r in requests],
        "source": [f"{path.name}:{n}" for n in range(1, len(requests) + 1)],
        "split": ["train"] * len(requests),
    }
    ids = np.concatenate([r.token_ids for r in requests]).astype(np.uint32)
    digest = tokenizer_digest(tokenizer)
    key = hashlib.sha256(ids.tobytes() + repr(docs).encode() + digest.encode()).hexdigest()
    corpus_id = f"{requests[0].server}-{key[:8]}"
    meta = {"corpus_id": corpus_id, "n_tokens": len(ids), "tokenizer": digest, "sources": [path.name]}
    store.put_corpus(corpus_id, token_ids=ids, docs=docs, vocab=vocabulary(tokenizer), meta=meta)
    return Corpus(corpus_id, ids, docs, meta)


def _write(run: RunWriter, store: Store, requests: list[Routed], routers: list[Router]) -> None:
    experts = np.concatenate([r.experts for r in requests])  # (n, l, k)
    run.write_shard("000000", tok_lo=0, tok_hi=len(experts), tables={"routes": routes(experts, routers)})
    routed = (experts != NONE).any(-1)  # (n, l)
    of_routers = {
        "layer": np.array([r.layer for r in routers]),
        "n_tokens": routed.sum(0),
        "entropy": np.full(len(routers), np.nan),
        "z": np.full(len(routers), np.nan),
    }
    E = routers[0].n_experts
    counts = [np.bincount(experts[:, at][experts[:, at] != NONE], minlength=E) for at in range(len(routers))]
    of_experts = {
        "layer": np.repeat(of_routers["layer"], E),
        "expert": np.tile(np.arange(E), len(routers)),
        "n_tokens": np.concatenate(counts),
        "weight": np.full(E * len(routers), np.nan),
        "prob": np.full(E * len(routers), np.nan),
    }
    by_router, by_expert = totals(routers, of_routers, of_experts, source=requests[0].server)
    run.write_table("routers", by_router)
    run.write_table("experts", by_expert)
    write_analysis(run, store)
    run.finish()


def routes(experts: np.ndarray, routers: list[Router]) -> dict[str, Any]:
    """Columns of `routes`, by (layer, tok, rank); weights and margins are not known."""
    n, layers, k = experts.shape
    by_layer = experts.transpose(1, 0, 2).reshape(-1)
    kept = by_layer != NONE
    return {
        "layer": np.repeat(np.array([r.layer for r in routers], np.uint16), n * k)[kept],
        "tok": np.tile(np.repeat(np.arange(n, dtype=np.uint32), k), layers)[kept],
        "rank": np.tile(np.arange(1, k + 1, dtype=np.uint8), n * layers)[kept],
        "expert": by_layer[kept].astype(np.uint16),
    }
