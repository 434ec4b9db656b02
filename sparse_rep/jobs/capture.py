"""What is taken from a model while it reads a corpus: codes, routing, head profiles, all in one way.

A `Capture` is made from settings alone, so it is small and can be sent to another machine; `fit` then meets the model and
loads what it needs. For each shard a worker (worker.py) runs every window through the model once and shows each batch to
all captures:

    capture.fit(model, corpus)      once; refuses what does not fit
    with capture.attached():        around the forward passes of a shard: its own hooks on the model
        capture.before(batch)       before every batch: whether it has a use for it
        ...                         the model reads a batch, as deep as the deepest of all captures' `hooks`
        capture.see(seen)           after every batch; starts its copies to the host and does not wait for them
    capture.take() -> Found         at the end of a shard: columns for the store, and what was gathered is forgotten

So one forward pass feeds everything that was asked for, and a shard's columns depend on nothing but the shard. Statistics of
the whole run are sums over shards: `take` gives the shard's part as rows of a table of its own, which can be added up while
the run is live, and `finish` writes the totals when every shard is there.

`coordinator.run_captures` is the job: it opens the run, plans shards, does those that are missing, commits each whole, and
finishes. A new kind of capture is a subclass here and a function that calls it, as extract.py does.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Float
from torch import Tensor

from sparse_rep.corpora.tokenised import Corpus
from sparse_rep.corpora.windows import Batch
from sparse_rep.hosting.model import HostedModel
from sparse_rep.jobs.task import CodeRows, DenseRows
from sparse_rep.store import RunWriter, Store


class Seen:
    """One batch as the model read it."""

    def __init__(self, batch: Batch, activations: Mapping[str, Float[Tensor, "b t d"]]) -> None:
        self.batch = batch
        """Ids, padding and corpus positions; on the host."""
        self._activations, self._rows = activations, {}

    def rows(self, hook: str) -> Float[Tensor, "n d"]:
        """Activations of the corpus tokens at one of the hooks asked for, in the order of `batch.tok`; on the model's device."""
        if hook not in self._rows:
            x = self._activations[hook]
            self._rows[hook] = x[self.batch.real.to(x.device)]
        return self._rows[hook]


@dataclass(frozen=True)
class Found:
    """What one capture found on one shard."""

    codes: dict[str, CodeRows] = field(default_factory=dict)
    """By dictionary id."""
    activations: dict[str, DenseRows] = field(default_factory=dict)
    """By hook."""
    tables: dict[str, Any] = field(default_factory=dict)
    """By table name: dicts of equal columns."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Time by phase, where the capture keeps it."""


class Capture(ABC):
    """Something taken from a model while it reads. See the module's docstring for the order of calls."""

    hooks: Sequence[str] = ()
    """Activations it reads, known once `fit` has run. The forward pass ends at the deepest hook of all captures (at the end
    of the model where there are none), so a capture with hooks of its own names the last one whose layer it needs."""

    @abstractmethod
    def fit(self, model: HostedModel, corpus: Corpus) -> dict[str, Any]:
        """Check and load; returns facts for the run's record. Raises ConfigError for what does not fit the model."""

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Open during the forward passes of a shard. Leaves the model as it was."""
        yield

    def reads(self, tok_lo: int, tok_hi: int) -> bool:
        """Whether it has a use for a shard of these tokens, once fitted. One that no capture reads is no part of the run."""
        return True

    def before(self, batch: Batch) -> bool:
        """Told of a batch before the model reads it. Returns whether to be shown it; one that nobody wants is not read."""
        return True

    @abstractmethod
    def see(self, seen: Seen) -> None: ...

    @abstractmethod
    def take(self) -> Found: ...

    def finish(self, run: RunWriter, store: Store) -> None:  # noqa: B027
        """Write tables over the whole run: every shard is committed and can be queried."""
