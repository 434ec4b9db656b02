"""Codes as arrays: bf16 rounding and the one sort order of the store."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparse_rep.errors import DataError


@dataclass(frozen=True)
class Codes:
    """Equal columns: `feature (n) uint32`, `tok (n) uint32`, `act (n) float32`."""

    feature: NDArray[np.uint32]
    tok: NDArray[np.uint32]
    act: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.feature)

    def take(self, which: NDArray) -> Codes:
        """The rows at these positions, or where this mask is true."""
        return Codes(self.feature[which], self.tok[which], self.act[which])


def round_to_bf16(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Nearest bfloat16, ties to even, as float32: 8 significant bits are kept, relative error at most 2^-9 (0.2 %)."""
    bits = x.view(np.uint32)
    rounded = (bits >> 16) & np.uint32(1)
    rounded += bits
    rounded += np.uint32(0x7FFF)
    rounded &= np.uint32(0xFFFF0000)
    return rounded.view(np.float32)


def unsigned(name: str, x: NDArray) -> NDArray[np.uint32]:
    """As uint32.

    Raises:
        DataError: not whole numbers from 0 to 2^32 - 1 (an empty slot's index -1, most often).
    """
    x = np.asarray(x)
    if x.dtype == np.uint32:
        return np.ascontiguousarray(x)
    if x.dtype.kind not in "iu" or (len(x) and (x.min() < 0 or x.max() > np.iinfo(np.uint32).max)):
        raise DataError(f"{name} must hold whole numbers from 0 to 4,294,967,295; drop empty slots (index -1) first")
    return np.ascontiguousarray(x, dtype=np.uint32)


def canonical(feature: NDArray, tok: NDArray, act: NDArray) -> Codes:
    """Codes as the store keeps them: act rounded to bf16, zeros dropped, sorted by (feature, tok).

    Raises:
        DataError: columns of different lengths, values that are not finite, a (feature, tok) that appears twice.
    """
    feature, tok = unsigned("feature", feature), unsigned("tok", tok)
    act = np.ascontiguousarray(act, dtype=np.float32)
    if not len(feature) == len(tok) == len(act):
        raise DataError(f"columns differ in length: feature {len(feature)}, tok {len(tok)}, act {len(act)}")
    if not np.isfinite(act).all():
        raise DataError("codes hold NaN or infinite activations: check the model's dtype and the dictionary")
    codes = Codes(feature, tok, round_to_bf16(act))
    if not codes.act.all():
        codes = codes.take(codes.act != 0)
    codes = codes.take(order_of(codes.feature, codes.tok))
    same = (codes.feature[1:] == codes.feature[:-1]) & (codes.tok[1:] == codes.tok[:-1])
    if same.any():
        at = int(same.argmax())
        raise DataError(
            f"feature {codes.feature[at]} has two activations on token {codes.tok[at]}: coalesce the codes before storing"
        )
    return codes


def order_of(major: NDArray[np.uint32], minor: NDArray[np.uint32]) -> NDArray[np.intp]:
    """Permutation that sorts by (major, minor), stable.

    numpy sorts 16-bit integers by radix, an order of magnitude faster than `np.lexsort`; so each column is sorted in 16-bit
    digits, least first, and what is in order already (tokens come that way) is not sorted again.
    """
    order = None
    for digits in (minor, major):
        for digit in _digits(digits):
            current = digit if order is None else digit[order]
            if len(current) and (current[1:] < current[:-1]).any():
                step = np.argsort(current, kind="stable")
                order = step if order is None else order[step]
    return np.arange(len(major)) if order is None else order


def _digits(column: NDArray[np.uint32]) -> list[NDArray[np.uint16]]:
    """16-bit digits, least significant first, as few as the column's range needs."""
    if not len(column):
        return []
    lo, hi = int(column.min()), int(column.max())
    if hi - lo <= 0xFFFF:
        return [(column - np.uint32(lo)).astype(np.uint16)]
    return [column.astype(np.uint16), (column >> np.uint32(16)).astype(np.uint16)]
