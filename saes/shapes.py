"""Whether shapes may follow the data: a shortcut where asking costs nothing, and out of the question elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

_fixed = False


@contextmanager
def fixed_shapes() -> Iterator[None]:
    """Within the context losses keep to shapes that do not depend on data, as `torch.vmap` needs them to."""
    global _fixed
    before, _fixed = _fixed, True
    try:
        yield
    finally:
        _fixed = before


def may_ask(tensor: Tensor) -> bool:
    """Whether code may branch on a tensor's values: on a CPU, where nothing waits, and outside `fixed_shapes`."""
    return not (_fixed or tensor.is_cuda)
