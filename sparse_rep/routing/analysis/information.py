"""Mutual information between choices and something else, less the bias of small counts, and what shuffling leaves of it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from sparse_rep.routing.analysis.counted import Ints
from sparse_rep.routing.analysis.intervals import Counts


def mutual_information(joint: Counts) -> float:
    """Bits between the rows and the columns of a table of counts, with Miller and Madow's (1955) correction.

    Plain plug-in information is too large by about (cells - rows - columns + 1) / 2n nats; with 64 experts and few tokens
    that is most of it. The corrected figure of independent variables scatters about 0, below it too. Where a token counts
    once for each of its k choices, so does n: choices without replacement vary about as much as k independent ones.
    """
    n = joint.sum()
    if n == 0:
        return float("nan")
    rows, columns = joint.sum(1), joint.sum(0)
    filled = joint[joint > 0]
    plug_in = _entropy(rows) + _entropy(columns) - _entropy(filled)
    bias = (np.count_nonzero(filled) - np.count_nonzero(rows) - np.count_nonzero(columns) + 1) / (2 * n)
    return float((plug_in - bias) / np.log(2))


def _entropy(counts: NDArray[np.float64]) -> float:
    p = counts[counts > 0] / counts.sum()
    return float(-(p * np.log(p)).sum())


def table(expert: Ints, label: Ints, n_experts: int, n_labels: int) -> Counts:
    """Counts (experts, labels) of choices (n, k) against labels (n); -1 on either side is left out."""
    label = np.broadcast_to(label[:, None], expert.shape)
    known = (expert >= 0) & (label >= 0)
    return np.bincount(
        expert[known] * n_labels + label[known], minlength=n_experts * n_labels
    ).reshape(n_experts, n_labels).astype(float)  # fmt: skip


def rotations(doc: Ints, draws: int, rng: np.random.Generator) -> Iterator[Ints]:
    """Orders (n) in which every document is turned by a random offset of its own.

    Turning keeps each sequence as it is and loses only what lies against what, so runs and topics do not pass for information
    as they would against freely shuffled tokens. Tokens of a document must lie together.
    """
    new = np.flatnonzero(np.diff(doc, prepend=doc[0] - 1 if len(doc) else 0))
    length = np.diff(new, append=len(doc))
    start, size = np.repeat(new, length), np.repeat(length, length)
    position = np.arange(len(doc)) - start
    for _ in range(draws):
        offset = np.repeat((rng.random(len(length)) * length).astype(np.int64), length)
        yield start + (position + offset) % size


def common(ids: Ints, least: int) -> tuple[Ints, int]:
    """Ids that occur at least `least` times as 0.., others as -1; and how many there are."""
    values, inverse, n = np.unique(ids, return_inverse=True, return_counts=True)
    kept = (n >= least) & (values >= 0)
    numbers = np.where(kept, np.cumsum(kept) - 1, -1)
    return numbers[inverse], int(kept.sum())
