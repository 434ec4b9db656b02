"""A store made by hand-written detectors on real text, through the public Store API: small, honest and the same every time.

Text: modules of the standard library and package METADATA. Tokens: a regular expression. Latents: detectors such as "a Python
keyword" or "inside a comment", firing with the token's surprisal in bits times a weight. One latent never fires.
"""

from __future__ import annotations

import importlib.metadata
import json
import keyword
import math
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np

from sparse_rep.store import Store
from sparse_rep.store.sealing import seal

MODULES = (
    "json/decoder.py",
    "textwrap.py",
    "string.py",
    "calendar.py",
    "bisect.py",
    "heapq.py",
    "fractions.py",
    "csv.py",
)
PACKAGES = ("typer", "pydantic", "duckdb", "rich")
TOKEN = re.compile(r"\n| ?[A-Za-z]+| ?[0-9]+|[ \t]+|_+|[^\sA-Za-z0-9_]")
BIG, SMALL = "detectors-24", "detectors-8"
MODEL, HOOK = "regex-tokenizer", "tokens"
NEVER = 14
CORPUS = "stdlib-and-readmes"


def documents() -> list[tuple[str, str, str]]:
    """(domain, source, text) of each document."""
    library = Path(re.__file__).parents[1]
    docs = [("stdlib", name, (library / name).read_text("utf-8")[:14_000]) for name in MODULES]
    for name in PACKAGES:
        readme = importlib.metadata.metadata(name).get_payload() or ""
        docs.append(("pip-readmes", name, str(readme)[:8_000]))
    return docs


Line = list[str]
Detector = Callable[[list[str], int, Line], float]
"""(tokens of the document, position, tokens of its line so far) -> weight, 0 for silent."""


def _words(*words: str) -> Detector:
    return lambda doc, i, line: float(doc[i].strip() in words)


def _after(word: str) -> Detector:
    """Fires after a word on the same line, less with distance."""

    def detect(doc: list[str], i: int, line: Line) -> float:
        before = [t.strip() for t in line]
        return 1 / (len(before) - before.index(word)) if word in before and not doc[i].isspace() else 0.0

    return detect


DETECTORS: tuple[tuple[str, Detector], ...] = (
    ("keyword", lambda doc, i, line: float(keyword.iskeyword(doc[i].strip()))),
    ("number", lambda doc, i, line: float(doc[i].strip().isdigit())),
    ("quote", _words('"', "'", "`")),
    (
        "import",
        lambda doc, i, line: float(doc[i].strip() in ("import", "from")) or _after("import")(doc, i, line),
    ),
    ("self", _words("self")),
    ("opening bracket", _words("(", "[", "{")),
    ("closing bracket", _words(")", "]", "}")),
    ("newline", lambda doc, i, line: float(doc[i] == "\n")),
    ("indentation", lambda doc, i, line: float(doc[i].isspace() and not line and doc[i] != "\n")),
    ("capitalised", lambda doc, i, line: 0.5 * doc[i].strip().istitle()),
    ("upper case", lambda doc, i, line: float(doc[i].strip().isupper() and len(doc[i].strip()) > 1)),
    ("in a comment", lambda doc, i, line: 0.4 * ("#" in line)),
    ("name being defined", lambda doc, i, line: float(bool(line) and line[-1].strip() in ("def", "class"))),
    ("long word", lambda doc, i, line: (len(doc[i]) - 8) / 4 if len(doc[i].strip()) > 8 else 0.0),
    ("never", lambda doc, i, line: 0.0),
    ("start of document", lambda doc, i, line: float(i == 0)),
    ("any letter", lambda doc, i, line: 0.1 * any(c.isalpha() for c in doc[i])),
    ("json", _words("json", "JSON")),
    ("operator", _words("=", "+", "-", "*", "/", "<", ">", "%")),
    ("address", _after("https")),
    ("return value", _after("return")),
    ("raised error", lambda doc, i, line: float(doc[i].strip().endswith(("Error", "error")))),
    ("date word", _words("day", "days", "week", "month", "year", "weekday", "January")),
    ("repeated token", lambda doc, i, line: 0.3 * (i > 0 and doc[i] == doc[i - 1])),
)


def build(path: Path, *, sealed: bool = True) -> Store:
    """Writes the store at `path`: a training run with metrics and an extraction run over two dictionaries."""
    store = Store(path, create=True)
    docs = [(domain, source, TOKEN.findall(text)) for domain, source, text in documents()]
    pieces = sorted({t for _, _, tokens in docs for t in tokens})
    ids = {piece: i for i, piece in enumerate(pieces)}
    stream = [t for _, _, tokens in docs for t in tokens]
    counts = Counter(stream)
    edges = np.cumsum([0, *(len(tokens) for _, _, tokens in docs)])
    store.put_corpus(
        CORPUS,
        token_ids=np.array([ids[t] for t in stream], dtype=np.uint32),
        docs={
            "doc": np.arange(len(docs), dtype=np.uint32),
            "tok_lo": edges[:-1].astype(np.uint32),
            "tok_hi": edges[1:].astype(np.uint32),
            "domain": [domain for domain, _, _ in docs],
            "source": [source for _, source, _ in docs],
            "split": ["heldout" if i % 4 == 3 else "train" for i in range(len(docs))],
        },
        vocab={
            "token_id": np.arange(len(pieces), dtype=np.uint32),
            "piece": [p.replace(" ", "\u0120").replace("\n", "\u010a") for p in pieces],
            "text": pieces,
        },
        meta={"tokenizer": MODEL, "text": "stdlib,pip-readmes"},
    )
    feature, tok, act = _codes(docs, counts, len(stream))
    small = feature < 8
    for name, n in ((BIG, len(DETECTORS)), (SMALL, 8)):
        _dictionary(store, name, n)
    bits = np.array([-math.log2(counts[t] / len(stream)) for t in stream])
    _training(store, docs, feature, tok, act, bits)
    run = store.open_run(
        kind="extract", name="detect", config={"detectors": [n for n, _ in DETECTORS]}, config_hash="d" * 64,
        corpus_id=CORPUS, model=MODEL, kernel="python", code_version="tests", n_shards_planned=2, n_tokens_planned=len(stream),
    )  # fmt: skip
    with run:
        half = int(edges[len(docs) // 2])
        for name, lo, hi in (("000000", 0, half), ("000001", half, len(stream))):
            here = (tok >= lo) & (tok < hi)
            codes = {BIG: (feature[here], tok[here], act[here])}
            codes[SMALL] = tuple(column[here & small] for column in (feature, tok, act))
            run.write_shard(name, tok_lo=lo, tok_hi=hi, codes=codes)
        _decoder_tables(run, feature, np.array([ids[t] for t in stream])[tok], tok, stream, pieces, counts)
        run.finish()
    if sealed:
        seal(store, run.run_id)
    return store


def _codes(docs, counts: Counter[str], n_tokens: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rows: list[tuple[int, int, float]] = []
    at = 0
    for _, _, tokens in docs:
        line: Line = []
        for i, token in enumerate(tokens):
            bits = -math.log2(counts[token] / n_tokens)
            for number, (_, detect) in enumerate(DETECTORS):
                if weight := detect(tokens, i, line):
                    rows.append((number, at + i, bits * weight))
            line = [] if token == "\n" else [*line, token]
        at += len(tokens)
    columns = list(zip(*rows, strict=True))
    return np.array(columns[0], np.uint32), np.array(columns[1], np.uint32), np.array(columns[2], np.float32)


def _dictionary(store: Store, name: str, n: int) -> None:
    folder = store.dictionary_path(name)
    folder.mkdir(parents=True, exist_ok=True)
    cfg = {"architecture": "detectors", "d_in": 1, "d_sae": n, "metadata": {"model_name": MODEL, "hook_name": HOOK}}
    cfg["metadata"] |= {
        "sparse_rep_model_note": "a regular expression, no network",
        "sparse_rep_run_id": "fit-aaaaaaaa",
    }
    (folder / "cfg.json").write_text(json.dumps(cfg), "utf-8")


def _training(store: Store, docs, feature: np.ndarray, tok: np.ndarray, act: np.ndarray, bits: np.ndarray) -> None:
    """Variance of the tokens' surprisal that a linear map of the codes explains, fitted on train, scored on held out."""
    codes = np.zeros((len(bits), len(DETECTORS)))
    codes[tok, feature] = act
    domain = np.concatenate([[d] * len(tokens) for d, _, tokens in docs])
    heldout = np.concatenate([[i % 4 == 3] * len(tokens) for i, (_, _, tokens) in enumerate(docs)])

    def explained(n: int, where: np.ndarray) -> float:
        design = np.column_stack([codes[:, :n], np.ones(len(bits))])
        weights, *_ = np.linalg.lstsq(design[~heldout], bits[~heldout], rcond=None)
        residual = bits[where] - design[where] @ weights
        return float(1 - residual.var() / bits[where].var())

    rows: list[tuple[str, str, str | None, int | None, str, float]] = []
    for name, n in ((BIG, len(DETECTORS)), (SMALL, 8)):
        held = codes[heldout, :n]
        rows.append((name, "heldout", None, None, "explained_variance", explained(n, heldout)))
        rows.append((name, "heldout", None, None, "l0", float((held > 0).sum(1).mean())))
        rows.append((name, "heldout", None, None, "dead_share", float((codes[:, :n].max(0) == 0).mean())))
        for d in ("stdlib", "pip-readmes"):
            rows.append((name, "heldout", d, None, "explained_variance", explained(n, heldout & (domain == d))))
        rows += [(name, "train", None, j, "explained_variance", explained(j, ~heldout)) for j in range(1, n + 1)]
    run = store.open_run(kind="train", name="fit", config={"detectors": 24}, config_hash="a" * 64, corpus_id=CORPUS)
    names = ("dictionary_id", "split", "domain", "step", "metric", "value")
    with run:
        run.write_table("metrics", dict(zip(names, map(list, zip(*rows, strict=True)), strict=True)))
        run.finish()


def _decoder_tables(run, feature, token_ids, tok, stream, pieces, counts: Counter[str]) -> None:
    """Neighbours by the cosine of token-type counts; logits as the log ratio of the next token to its usual rate."""
    m = len(DETECTORS)
    atoms = np.zeros((m, len(pieces)))
    np.add.at(atoms, (feature, token_ids), 1)
    atoms = np.sqrt(atoms)
    norms = np.linalg.norm(atoms, axis=1)
    cosine = atoms @ atoms.T / np.maximum(1e-9, np.outer(norms, norms))
    near: dict[str, list] = defaultdict(list)
    for f in range(m):
        order = [g for g in np.argsort(-cosine[f], kind="stable") if g != f and cosine[f, g] > 0][:10]
        for rank, g in enumerate(order, 1):
            for key, value in (("dictionary_id", BIG), ("feature", f), ("rank", rank), ("other", int(g))):
                near[key].append(value)
            near["cosine"].append(float(cosine[f, g]))
    run.write_table("feature_neighbors", dict(near))
    logits: dict[str, list] = defaultdict(list)
    usual = Counter(stream)
    ids = {p: i for i, p in enumerate(pieces)}
    for f in range(m):
        after = Counter(stream[t + 1] for t in tok[feature == f] if t + 1 < len(stream))
        total = sum(after.values())
        score = {
            t: math.log((after[t] + 0.5) / (total + 1)) - math.log(usual[t] / len(stream))
            for t in usual
            if usual[t] >= 20 and total
        }
        ranked = sorted(score, key=lambda t: (-score[t], t))
        for sign, best in ((1, ranked[:10]), (-1, ranked[::-1][:10])):
            for rank, t in enumerate(best, 1):
                row = (BIG, f, sign, rank, ids[t], t, score[t])
                for key, value in zip(
                    ("dictionary_id", "feature", "sign", "rank", "token_id", "token", "value"), row, strict=True
                ):
                    logits[key].append(value)
    run.write_table("feature_logits", dict(logits))


if __name__ == "__main__":
    build(Path(sys.argv[1]))
