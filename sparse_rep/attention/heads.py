"""What each head of a layer does on one text: where its mass goes, how many keys it needs, what it writes.

All figures are means over the text's queries. Mass is normalised over keys; what a learned sink takes is `learned_sink`.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparse_rep.attention.dense import Dense, sample
from sparse_rep.attention.patterns import pattern_recalls

SINK = 4
"""Keys at the start of a text that count as the sink (4 in the Sparse Frontier's methods)."""
LOCAL = 64
"""Nearest keys that count as local, a query's own included."""
OCCURRENCES = 8
"""Earlier occurrences of a query's token after which induction is looked for: the latest ones."""
SHARES = (0.90, 0.95, 0.99)


@dataclass(frozen=True)
class HeadProfile:
    """One number a head, on the host; columns of the table head_texts."""

    sink: Float[Tensor, " h"]
    learned_sink: Float[Tensor, " h"]
    local: Float[Tensor, " h"]
    previous: Float[Tensor, " h"]
    induction: Float[Tensor, " h"]
    induction_chance: Float[Tensor, " h"]
    distance: Float[Tensor, " h"]
    entropy: Float[Tensor, " h"]
    keys90: Float[Tensor, " h"]
    keys95: Float[Tensor, " h"]
    keys99: Float[Tensor, " h"]
    recall_local: Float[Tensor, " h"]
    recall_sink_local: Float[Tensor, " h"]
    recall_columns: Float[Tensor, " h"]
    recall_diagonals: Float[Tensor, " h"]
    recall_blocks: Float[Tensor, " h"]
    write_norm: Float[Tensor, " h"]
    write_share: Float[Tensor, " h"]
    n_queries: int
    """Queries on which keys90 to keys99 were measured."""
    distances: Float[Tensor, "h bins"]
    """Mass by distance in bins that double: [0, 1), [1, 2), [2, 4), ..."""
    writes: Float[Tensor, "h n"]
    """Norm of what each head adds to the residual stream at each position."""

    def columns(self) -> dict[str, Tensor]:
        """The single numbers by name."""
        return {
            f.name: value
            for f in fields(self)
            if isinstance(value := getattr(self, f.name), Tensor) and value.ndim == 1
        }


def profile_heads(
    dense: Dense, ids: Int[Tensor, " n"], out_proj: Float[Tensor, "d h dv"], class_budget: float
) -> HeadProfile:
    """Profile a causal layer.

    Args:
        dense: its dense pass.
        ids: the text's tokens, for induction.
        out_proj: W_O, what each head's output is multiplied by on its way to the residual stream.
        class_budget: share of the visible pairs that each pattern may keep; see patterns.py.
    """
    layer = dense.layer
    lines = dense.lines()
    n = layer.n
    back = torch.arange(n, device=layer.device, dtype=lines.distances.dtype)
    keys, n_queries = _keys_needed(dense)
    induction, chance = _induction(dense, ids)
    writes = _written(dense.out, out_proj)
    power = writes.square().mean(-1)
    zero = torch.zeros(layer.n_heads, device=layer.device)
    values = {
        "sink": lines.columns[:, :SINK].sum(-1),
        "learned_sink": zero if dense.sunk is None else dense.sunk.mean(-1),
        "local": lines.distances[:, :LOCAL].sum(-1),
        "previous": lines.distances[:, 1] if n > 1 else zero,
        "induction": induction,
        "induction_chance": chance.expand(layer.n_heads),
        "distance": lines.distances @ back,
        "entropy": lines.entropy,
        **dict(zip(("keys90", "keys95", "keys99"), keys, strict=True)),
        **{f"recall_{name}": recall for name, recall in pattern_recalls(dense, lines, class_budget).items()},
        "write_norm": writes.mean(-1),
        "write_share": power / power.sum().clamp(min=1e-30),
        "distances": _by_doubling(lines.distances),
        "writes": writes,
    }
    return HeadProfile(**{name: value.double().cpu() for name, value in values.items()}, n_queries=n_queries)


def _keys_needed(dense: Dense) -> tuple[list[Tensor], int]:
    """Mean number of keys that hold each of SHARES, over the sampled queries."""
    layer = dense.layer
    totals = torch.zeros((len(SHARES), layer.n_heads), dtype=torch.float64, device=layer.device)
    shares = torch.tensor(SHARES, dtype=torch.float64, device=layer.device)
    for head in range(layer.n_heads):
        for queries, best in dense.sorted_rows(head):
            # Rounding may leave a row's sum short of 1: never more keys than it has.
            needed = torch.searchsorted(best, shares.expand(len(queries), -1).contiguous()) + 1
            totals[:, head] += torch.minimum(needed, queries[:, None] + 1).sum(0)
    count = len(sample(layer.n))
    return list(totals / count), count


def _induction(dense: Dense, ids: Int[Tensor, " n"]) -> tuple[Tensor, Tensor]:
    """Mass on keys just after the latest earlier occurrences of the query's token, and what even attention would put there."""
    layer = dense.layer
    at = earlier_occurrences(ids.to(layer.device), OCCURRENCES) + 1
    query = torch.arange(layer.n, device=layer.device)[:, None]
    valid = at > 0
    if layer.window is not None:
        valid = valid & (query - at < layer.window)
    seen = torch.arange(1, layer.n + 1, device=layer.device).clamp(max=layer.window or layer.n)
    chance = (valid.sum(-1) / seen).mean()
    found = torch.zeros(layer.n_heads, dtype=dense.lse.dtype, device=layer.device)
    for head in range(layer.n_heads):
        k, q = layer.k[layer.kv_of(head)].to(dense.lse), layer.q[head].to(dense.lse)
        for slot in range(at.shape[1]):
            s = (q * k[at[:, slot].clamp(min=0)]).sum(-1) * layer.scaling
            if layer.softcap is not None:
                s = layer.softcap * torch.tanh(s / layer.softcap)
            found[head] += torch.where(valid[:, slot], (s - dense.lse[head]).exp(), 0).sum()
    return found / layer.n, chance


def earlier_occurrences(ids: Int[Tensor, " n"], count: int) -> Int[Tensor, "n c"]:
    """Positions of the `count` latest earlier occurrences of each position's token, latest first; -1 where there are fewer."""
    order = ids.argsort(stable=True)
    ranked = ids[order]
    found = torch.full((len(ids), count), -1, dtype=torch.int64, device=ids.device)
    for slot in range(min(count, len(ids) - 1)):
        step = slot + 1
        same = ranked[step:] == ranked[:-step]
        found[order[step:][same], slot] = order[:-step][same]
    return found


def _written(out: Float[Tensor, "h n dv"], out_proj: Float[Tensor, "d h dv"]) -> Float[Tensor, "h n"]:
    """||W_O o|| of each head and position, by the Gram matrix of the head's columns of W_O: nothing of width d is made."""
    wide = torch.float32
    columns = out_proj.to(wide).transpose(0, 1)
    gram = columns.mT @ columns
    return torch.stack([((o.to(wide) @ g) * o).sum(-1).clamp(min=0).sqrt() for o, g in zip(out, gram, strict=True)])


def _by_doubling(distances: Float[Tensor, "h n"]) -> Float[Tensor, "h bins"]:
    n = distances.shape[1]
    edges = [0, *(2**i for i in range(n.bit_length())), n]
    bins = [distances[:, lo:hi].sum(-1) for lo, hi in itertools.pairwise(edges) if lo < min(hi, n)]
    return torch.stack(bins, -1)
