"""What a router returns, read by what the tensors are and not by where they stand.

The order changes between families and between versions (GraniteMoE's was turned round between transformers 5.17 and 5.23), so
each router is shown a few tokens once and its outputs are told apart by type, width and value; afterwards their places are
known and nothing is looked at again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sparse_rep.codes import EMPTY
from sparse_rep.errors import ConfigError
from sparse_rep.routing.families import FAMILIES, Router


@dataclass(frozen=True)
class Layout:
    """Places of a router's outputs among its tensors; None for what it does not return."""

    logits: int
    weights: int | None = None
    """(n, k), or (n, E) with 0 for experts not chosen."""
    indices: int | None = None
    """(n, k)."""
    chosen: int | None = None
    """(n, E): 1 for the experts chosen, of which there may be fewer than k."""

    def read(self, output: Any, k: int) -> tuple[Tensor, Tensor | None, Tensor]:
        """logits (n, E), weights (n, k) or None, indices (n, k) with -1 where a token was dropped."""
        found = [t.flatten(0, -2) for t in tensors(output)]
        logits = found[self.logits]
        if self.chosen is not None:
            kept, indices = logits.masked_fill(found[self.chosen] == 0, -torch.inf).topk(k, -1)
            dropped = kept == -torch.inf
        else:
            indices = logits.topk(k, -1).indices if self.indices is None else found[self.indices]
            dropped = (indices < 0) | (indices >= logits.shape[-1])
        weights = None if self.weights is None else found[self.weights]
        if weights is not None and weights.shape[-1] != k:
            weights = weights.gather(-1, indices.clamp(0, logits.shape[-1] - 1))
        if weights is not None:
            weights = weights.masked_fill(dropped, 0)
        return logits, weights, indices.masked_fill(dropped, EMPTY)


def tensors(output: Any) -> list[Tensor]:
    """The tensors of a module's output in order."""
    return [t for t in (output if isinstance(output, tuple | list) else (output,)) if torch.is_tensor(t)]


def read_layout(router: Router, output: Any) -> Layout:
    """Tell the outputs of a router apart, given those for a few tokens.

    Raises:
        ConfigError: they cannot be; names the module and the shapes.
    """
    found = tensors(output)
    E, k = router.n_experts, router.k

    def places(width: int, floating: bool) -> list[int]:
        return [i for i, t in enumerate(found) if t.shape[-1:] == (width,) and t.is_floating_point() == floating]

    full, narrow = places(E, True), places(k, True) if k != E else []
    indices = places(k, False)[:1]
    chosen = places(E, False)[:1] if k != E else []
    weights = narrow[:1] or [i for i in full if len(full) == 2 and _are_weights(found[i], E, k)][:1]
    logits = [i for i in full if i not in weights]
    if len(logits) != 1:
        shapes = ", ".join(f"{t.dtype} {tuple(t.shape)}".removeprefix("torch.") for t in found) or "no tensor"
        raise ConfigError(
            f"cannot read the router {router.name}: with {E} experts and top_k={k} it returns {shapes}; name the module that "
            f"gives the logits and its k, as in --routers 'model.layers.*.mlp.gate:top_k=2' "
            f"(families known: {', '.join(FAMILIES)})"
        )
    return Layout(logits[0], *((p[0] if p else None) for p in (weights, indices, chosen)))


def _are_weights(full: Tensor, E: int, k: int) -> bool:
    """Scores over all experts that are 0 but for k of them: Llama 4's, or anyone's where k is E."""
    return bool(((full >= 0) & (full <= 1)).all() and ((full == 0).sum(-1) == E - k).all())
