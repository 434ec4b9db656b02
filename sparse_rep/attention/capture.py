"""Seeing, and replacing, the attention of a Hugging Face model through its own attention interface.

transformers asks a registered function for each layer's attention and a registered function for its mask. Ours hands each
text of the batch to a visitor as a `LayerAttention` and keeps nothing, so never more than one layer is held. The mask stays
the predicate that transformers builds masks from: it is asked about a few rows and never written out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sparse_rep.attention.dense import dense
from sparse_rep.attention.layer import LayerAttention
from sparse_rep.errors import ConfigError
from sparse_rep.hosting.model import HostedModel

Visit = Callable[[LayerAttention, int], Float[Tensor, "h n dv"] | None]
"""Sees one layer on one text and that text's row in the batch; an output it returns takes the place of the layer's own."""

NAME = "sparse_rep_seen"


@dataclass(frozen=True)
class _Mask:
    """What the attention function receives in place of a mask tensor."""

    allows: Callable[..., Any]
    """transformers' predicate (batch, head, query, key) -> bool, broadcast over tensors of indices."""
    given: Tensor | None
    """The (b, t) padding mask, where one was passed to the model."""
    windows: dict[int, int | None] = field(default_factory=dict)
    """By row of the batch, once found: layers of one kind share a mask."""

    def keys_of(self, row: int, query: int, n: int, device: torch.device) -> Tensor:
        """Boolean (n,): keys that one query of one text may see."""
        at = [torch.tensor(i, device=device) for i in (row, 0, query)]
        return torch.as_tensor(self.allows(*at, torch.arange(n, device=device)), device=device).expand(n)


@dataclass(frozen=True)
class _Seeing:
    visit: Visit
    lengths: Sequence[int] | None


_seeing: ContextVar[_Seeing] = ContextVar("attention_seeing")


@contextmanager
def attention_seen(model: HostedModel, visit: Visit, lengths: Sequence[int] | None = None) -> Iterator[None]:
    """Show every layer's attention to `visit` in each forward pass while the context is open.

    Args:
        model: hosted by the backend transformers.
        visit: called once a layer and text, in the order of the forward pass.
        lengths: tokens of each row of the batch, which is padded on the right; None where no row is padded. May be changed
            in place between batches. What is behind a row's length is not shown, and its output is 0.

    Raises:
        ConfigError: another backend, or (from the forward pass) a layer whose mask is neither causal nor a sliding window.
    """
    if model.backend != "transformers":
        raise ConfigError(f"attention is seen through the backend transformers only, not {model.backend}")
    _register()
    config = model.model.config.get_text_config()
    before = config._attn_implementation
    token = _seeing.set(_Seeing(visit, lengths))
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = before
        _seeing.reset(token)


def attention_layers(model: HostedModel) -> list[int]:
    """Layers whose attention can be seen, found by reading two tokens.

    Raises ConfigError, naming what the layers hold instead, where there is none.
    """
    found: list[int] = []
    with torch.no_grad(), attention_seen(model, lambda layer, _: found.append(layer.layer)):
        model.logits(torch.zeros((1, 2), dtype=torch.int64))
    if not found:
        kinds = {type(m).__name__ for name, m in model.model.named_modules() if name.count(".") == 3}
        raise ConfigError(
            f"{model.origin.name} has no attention that goes through transformers' interface: its layers hold "
            f"{', '.join(sorted(kinds))}"
        )
    return sorted(set(found))


def _register() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(NAME, _attend)
    # Without its own mask function transformers would pass no mask at all, and say nothing.
    AttentionMaskInterface.register(NAME, _describe_mask)


def _describe_mask(*_: Any, mask_function: Any, attention_mask: Tensor | None = None, **__: Any) -> _Mask:
    return _Mask(mask_function, attention_mask)


def _attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: _Mask,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    seeing = _seeing.get()
    out = query.new_zeros((*query.shape[:3], value.shape[-1]))
    for row in range(len(query)):
        n = query.shape[2] if seeing.lengths is None else seeing.lengths[row]
        layer = LayerAttention(
            query[row, :, :n],
            key[row, :, :n],
            value[row, :, :n],
            scale=scaling,
            window=_window(attention_mask, row, n, module, query.device),
            sinks=s_aux,
            softcap=softcap,
            layer=module.layer_idx,
        )
        new = seeing.visit(layer, row)
        out[row, :, :n] = dense(layer).out if new is None else new
    return out.transpose(1, 2), None


def _window(mask: _Mask, row: int, n: int, module: Any, device: torch.device) -> int | None:
    """The layer's sliding window, read off its mask; None where queries see all keys before them."""
    if row not in mask.windows:
        if mask.given is not None and not bool(mask.given[row, :n].all()):
            raise ConfigError("padding must be on the right and told by `lengths`, not by an attention mask")
        span = int(mask.keys_of(row, n - 1, n, device).sum())
        for query in {0, n // 3, n // 2, n - 1}:
            back = query - torch.arange(n, device=device)
            if not torch.equal(mask.keys_of(row, query, n, device), (back >= 0) & (back < span)):
                raise ConfigError(
                    f"layer {module.layer_idx} ({type(module).__name__}) attends under a mask that is neither causal nor a "
                    "sliding window, which profiles of heads do not know"
                )
        mask.windows[row] = span if span < n else None
    return mask.windows[row]
