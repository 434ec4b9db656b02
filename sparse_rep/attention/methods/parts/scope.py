"""Where methods apply: the same few answers, worded once."""

from __future__ import annotations

from sparse_rep.attention.layer import Context
from sparse_rep.attention.method import Applies

PREFILL = Applies("prefill")


def causal_prefill(context: Context) -> Applies:
    """Any causal layer, sliding windows and sinks included: the layer's own mask holds beside the method's."""
    if context.causal:
        return PREFILL
    return Applies("n/a", "defined for causal attention; this layer is bidirectional")


def causal_decode(context: Context) -> Applies:
    if not context.causal:
        return Applies("n/a", "chooses keys for queries that come later; this layer is bidirectional")
    if context.n < 2:
        return Applies("n/a", "needs a prompt and at least one query after it")
    return Applies("decode")
