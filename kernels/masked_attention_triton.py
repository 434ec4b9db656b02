"""Attention over chosen blocks of keys, with its log-sum-exp (Triton): the dense pass, and what a sparse method would give.

Online softmax in base 2 as in FlashAttention (Dao et al. 2022). A block of queries walks a list of blocks of keys; inside a
block, single keys can be kept by column (one set a group of queries) or by distance. A query always keeps its own key.
"""

# Triton is not typed: its constexprs take plain numbers and its launches take options.
# pyright: basic, reportArgumentType=false, reportCallIssue=false, reportAssignmentType=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportGeneralTypeIssues=false, reportPossiblyUnboundVariable=false

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from sparse_rep.kernels.attention_torch import Lines, Rule
from sparse_rep.kernels.mass_triton import Launch, describe, key_blocks, launch_for, options, seen, to_logits


@triton.jit
def _step(
    q, k_desc, v_desc, j, kv_row, rows, n, window, scale, cap, top, total, acc, columns_ptr, distances_ptr,
    B: tl.constexpr, MASKED: tl.constexpr, CAUSAL: tl.constexpr, WINDOWED: tl.constexpr, CAPPED: tl.constexpr,
    LINES: tl.constexpr, VALUES: tl.constexpr,
):  # fmt: skip
    cols = j * B + tl.arange(0, B)
    k = k_desc.load([kv_row + j * B, 0])
    s = to_logits(tl.dot(q, k.T, input_precision="ieee"), scale, cap, CAPPED)
    if MASKED:
        inside = seen(rows, cols, n, window, CAUSAL, WINDOWED)
        if LINES:
            back = rows[:, None] - cols[None, :]
            near = tl.load(distances_ptr + back, mask=(back >= 0) & inside, other=0)
            column = tl.load(columns_ptr + cols, mask=cols < n, other=0)
            inside = inside & ((near != 0) | (column != 0)[None, :] | (back == 0))
        s = tl.where(inside, s, float("-inf"))
    higher = tl.maximum(top, tl.max(s, 1))
    # A row that has seen no key yet keeps a maximum of -inf; 0 in its place makes its exponentials 0, not NaN.
    base = tl.where(higher == float("-inf"), 0.0, higher)
    p = tl.math.exp2(s - base[:, None])
    shrink = tl.math.exp2(top - base)
    total = total * shrink + tl.sum(p, 1)
    if VALUES:
        v = v_desc.load([kv_row + j * B, 0])
        acc = tl.dot(p.to(v.dtype), v, acc * shrink[:, None], input_precision="ieee")
    return higher, total, acc


@triton.jit
def attention_kernel(
    q_desc, k_desc, v_desc, out_ptr, lse_ptr, count_ptr, index_ptr, columns_ptr, distances_ptr,
    n, b, dv, group, group_rows, n_groups, window, scale, cap,
    B: tl.constexpr, DV: tl.constexpr, CAUSAL: tl.constexpr, WINDOWED: tl.constexpr, CAPPED: tl.constexpr,
    LISTED: tl.constexpr, LINES: tl.constexpr, VALUES: tl.constexpr,
):  # fmt: skip
    # The longest rows of blocks begin first, so that none is left over at the end.
    block, head = b - 1 - tl.program_id(0), tl.program_id(1)
    kv_row = (head // group) * n
    rows = block * B + tl.arange(0, B)
    q = q_desc.load([head * n + block * B, 0])
    top = tl.full((B,), float("-inf"), tl.float32)
    total = tl.zeros((B,), tl.float32)
    acc = tl.zeros((B, DV), tl.float32)
    columns_ptr += (head.to(tl.int64) * n_groups + (block * B) // group_rows) * n
    distances_ptr += head * n
    if LISTED:
        row = head * b + block
        count = tl.load(count_ptr + row)
        index_ptr += row.to(tl.int64) * b
        inner = count
        if CAUSAL and not (LINES or WINDOWED):
            inner = count - 1  # lists ascend, so the last is the one on the diagonal
        for t in tl.range(0, inner):
            j = tl.load(index_ptr + t)
            top, total, acc = _step(
                q, k_desc, v_desc, j, kv_row, rows, n, window, scale, cap, top, total, acc, columns_ptr, distances_ptr,
                B, LINES or WINDOWED or not CAUSAL, CAUSAL, WINDOWED, CAPPED, LINES, VALUES,
            )  # fmt: skip
        for _t in tl.range(inner, count):
            top, total, acc = _step(
                q, k_desc, v_desc, block, kv_row, rows, n, window, scale, cap, top, total, acc, columns_ptr,
                distances_ptr, B, True, CAUSAL, WINDOWED, CAPPED, LINES, VALUES,
            )  # fmt: skip
    else:
        a, f0, f1, e = key_blocks(block, n, window, B, CAUSAL, WINDOWED)
        for j in tl.range(a, f0):
            top, total, acc = _step(
                q, k_desc, v_desc, j, kv_row, rows, n, window, scale, cap, top, total, acc, columns_ptr, distances_ptr,
                B, True, CAUSAL, WINDOWED, CAPPED, False, VALUES,
            )  # fmt: skip
        for j in tl.range(f0, f1):
            top, total, acc = _step(
                q, k_desc, v_desc, j, kv_row, rows, n, window, scale, cap, top, total, acc, columns_ptr, distances_ptr,
                B, False, CAUSAL, WINDOWED, CAPPED, False, VALUES,
            )  # fmt: skip
        for j in tl.range(f1, e):
            top, total, acc = _step(
                q, k_desc, v_desc, j, kv_row, rows, n, window, scale, cap, top, total, acc, columns_ptr, distances_ptr,
                B, True, CAUSAL, WINDOWED, CAPPED, False, VALUES,
            )  # fmt: skip
    valid = rows < n
    some = tl.where(total > 0, total, 1.0)
    lse = tl.where(total > 0, (top + tl.math.log2(some)) * 0.6931471805599453, float("-inf"))
    tl.store(lse_ptr + head * n + rows, lse, mask=valid)
    if VALUES:
        out = acc / some[:, None]
        wide = tl.arange(0, DV)
        at = out_ptr + (head.to(tl.int64) * n + rows)[:, None] * dv + wide[None, :]
        tl.store(at, out.to(out_ptr.dtype.element_ty), mask=valid[:, None] & (wide < dv)[None, :])


def block_lists(keep: Tensor, causal: bool) -> tuple[Tensor, Tensor]:
    """Counts (h, b) and ascending indices (h, b, b) of the kept blocks, the diagonal always among them; int32."""
    h, b, _ = keep.shape
    diagonal = torch.eye(b, dtype=torch.bool, device=keep.device)
    keep = (keep.tril() if causal else keep) | diagonal
    slot = keep.cumsum(-1, dtype=torch.int32)
    index = torch.zeros((h, b, b + 1), dtype=torch.int32, device=keep.device)
    blocks = torch.arange(b, dtype=torch.int32, device=keep.device).expand_as(keep)
    # Blocks that are not kept write to a last column that nobody reads.
    index.scatter_(-1, torch.where(keep, slot - 1, b).long(), blocks)
    return slot[..., -1].contiguous(), index[..., :b].contiguous()


def attention(
    q: Tensor, k: Tensor, v: Tensor | None, rule: Rule, keep: Tensor | None = None, block: int = 128,
    lines: Lines | None = None, launch: Launch | None = None,
) -> tuple[Tensor | None, Tensor]:  # fmt: skip
    """As `attention_torch.masked_attention`; `v=None` computes the log-sum-exp alone (then the output is None).

    With `lines`, `keep` must name every block that holds a kept key, and a group of queries be whole blocks or all queries.
    """
    h, n, _ = q.shape
    b = triton.cdiv(n, block)
    widest = q if v is None or v.shape[-1] < q.shape[-1] else v
    launch = launch or (launch_for(q, block, 1) if v is None else launch_for(widest, block, 2, most=3))
    assert launch is not None
    dv = 16 if v is None else v.shape[-1]
    lse = torch.empty((h, n), dtype=torch.float32, device=q.device)
    out = None if v is None else torch.empty((h, n, dv), dtype=q.dtype, device=q.device)
    counts, index = (lse, lse) if keep is None else block_lists(keep, rule.causal)
    columns, distances = (
        (lse, lse) if lines is None else (lines.columns.view(torch.int8), lines.distances.view(torch.int8))
    )
    k_desc = describe(k, block)
    attention_kernel[(b, h)](
        describe(q, block), k_desc, k_desc if v is None else describe(v, block), lse if out is None else out, lse,
        counts, index, columns.contiguous(), distances.contiguous(), n, b, dv, h // len(k),
        n if lines is None else lines.rows, 1 if lines is None else lines.columns.shape[1], **options(rule),
        B=block, DV=max(triton.next_power_of_2(dv), 16), CAUSAL=rule.causal, LISTED=keep is not None,
        LINES=lines is not None, VALUES=v is not None, num_warps=launch.warps, num_stages=launch.stages,
    )  # fmt: skip
    return out, lse
