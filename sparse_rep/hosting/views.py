"""`View`: a hosted model as changed. Features, heads and routing are compared between two views on the same tokens."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

from torch import Tensor

if TYPE_CHECKING:
    from sparse_rep.hosting.model import HostedModel
    from sparse_rep.saes.coder import SparseCoder


class Transform(ABC):
    """One change to a model. It leaves no trace: after `apply` the model is bit for bit what it was."""

    @abstractmethod
    def apply(self, model: HostedModel) -> AbstractContextManager[None]: ...

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """What was done, for the run's record."""


@final
class Identity(Transform):
    """No change: the baseline of a comparison."""

    @contextmanager
    def apply(self, model: HostedModel) -> Iterator[None]:
        yield

    def describe(self) -> dict[str, Any]:
        return {"transform": "identity"}


@final
class Splice(Transform):
    """The activation at a hook replaced by a coder's reconstruction of it (the field's "splicing in").

    A transcoder reads at `hook` and is spliced in at `target_hook`, further on. Positions whose activation is not to be
    touched (position 0, by default, whose norm dwarfs the rest in many models) pass through unchanged.
    """

    def __init__(self, coder: SparseCoder, hook: str, skip_positions: int = 1, target_hook: str | None = None) -> None:
        self.coder, self.hook, self.skip_positions, self.target_hook = coder, hook, skip_positions, target_hook

    @contextmanager
    def apply(self, model: HostedModel) -> Iterator[None]:
        def reconstruct(x: Tensor) -> Tensor:  # (b, t, d) -> (b * (t - skipped), d_out)
            rows = x[:, self.skip_positions :].reshape(-1, x.shape[-1])
            return self.coder.reconstruct(rows, self.coder.encode(rows))

        def put(spliced: Tensor, into: Tensor) -> Tensor:
            out = into.clone()
            out[:, self.skip_positions :] = spliced.to(out.dtype).view_as(out[:, self.skip_positions :])
            return out

        if self.target_hook is None:
            with model.edit(self.hook, lambda x: put(reconstruct(x), x)):
                yield
            return
        predicted: list[Tensor] = []

        def read(x: Tensor) -> Tensor:
            predicted.append(reconstruct(x))
            return x

        with model.edit(self.hook, read), model.edit(self.target_hook, lambda y: put(predicted.pop(), y)):
            yield

    def describe(self) -> dict[str, Any]:
        return {
            "transform": "splice",
            "hook": self.hook,
            **({} if self.target_hook is None else {"target_hook": self.target_hook}),
            "skip_positions": self.skip_positions,
            **self.coder.describe(),
        }


@dataclass(frozen=True)
class View:
    """A model and the transforms under which it is looked at, applied in order."""

    model: HostedModel
    transforms: tuple[Transform, ...] = (Identity(),)

    @contextmanager
    def applied(self) -> Iterator[HostedModel]:
        with ExitStack() as stack:
            for transform in self.transforms:
                stack.enter_context(transform.apply(self.model))
            yield self.model

    def describe(self) -> list[dict[str, Any]]:
        return [t.describe() for t in self.transforms]
