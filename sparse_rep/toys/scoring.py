"""How well a language model predicts documents it has not seen, against one that knows only how often each token occurs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from sparse_rep.corpora.windows import Windows
from sparse_rep.toys.text import ToyText

BATCH_TOKENS = 16_384


@torch.no_grad()
def heldout_loss(model: Any, text: ToyText, context: int, tokens_each: int | None = None) -> dict[str, float]:
    """Next-token loss in nats a token on the held-out documents, by domain, and under "all" over all of their tokens.

    Documents are cut into windows as everywhere else; the first token of a window is not predicted.

    Args:
        model: a Hugging Face causal model, in evaluation mode.
        tokens_each: stop in a domain once so many tokens have been scored; None scores them all.
    """
    totals = {}
    for domain, documents in text.documents("heldout").items():
        windows = Windows(documents, context)
        loss, n = 0.0, 0
        for batch in windows.batches(text.corpus.token_ids, range(len(windows)), BATCH_TOKENS):
            ids = batch.input_ids.to(model.device)
            real = batch.real[:, 1:].to(model.device)
            logits = model(input_ids=ids, use_cache=False).logits[:, :-1][real].float()
            loss += F.cross_entropy(logits, ids[:, 1:][real], reduction="sum").item()
            n += len(logits)
            if tokens_each is not None and n >= tokens_each:
                break
        totals[domain] = loss, n
    return _per_token(totals)


def unigram_loss(text: ToyText, context: int) -> dict[str, float]:
    """The same loss for the model that gives each token its frequency in the training documents, one added to each count.

    It predicts the same tokens: all but the first of each window.
    """
    n_ids = len(text.tokenizer)
    everything = [span for spans in text.documents("train").values() for span in spans]
    log_frequency = _log_frequency(_counts(text, everything, n_ids))
    totals: dict[str, tuple[float, int]] = {}
    for domain, documents in text.documents("heldout").items():
        windows = Windows(documents, context)
        targets = _counts(text, zip((windows.lo + 1).tolist(), windows.hi.tolist(), strict=True), n_ids)
        totals[domain] = float(targets @ -log_frequency), int(targets.sum())
    return _per_token(totals)


def _counts(text: ToyText, spans: Iterable[tuple[int, int]], n_ids: int) -> np.ndarray:
    pieces = [text.corpus.token_ids[lo:hi] for lo, hi in spans]
    return np.bincount(np.concatenate(pieces), minlength=n_ids)


def _log_frequency(counts: np.ndarray) -> np.ndarray:
    smoothed = counts + 1.0
    return np.log(smoothed / smoothed.sum())


def _per_token(totals: dict[str, tuple[float, int]]) -> dict[str, float]:
    mean = {domain: loss / n for domain, (loss, n) in totals.items()}
    loss, n = np.sum(list(totals.values()), axis=0)
    return {**mean, "all": float(loss / n)}
