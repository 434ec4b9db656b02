"""One figure of a layer with its interval and its null: a row of `routing_metrics`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from sparse_rep.routing.analysis.intervals import Estimate


@dataclass(frozen=True)
class Metric:
    name: str
    unit: str
    value: Estimate
    null: Estimate
    null_model: str
    n_tokens: int

    @staticmethod
    def exactly(value: float) -> Estimate:
        """A figure without an interval."""
        return Estimate(np.asarray(value, dtype=float), np.asarray(np.nan), np.asarray(np.nan))

    def row(self, layer: int) -> dict[str, Any]:
        """As columns of the table; NaN becomes NULL."""
        numbers = {
            "value": self.value.value, "lo": self.value.lo, "hi": self.value.hi,
            "null_value": self.null.value, "null_lo": self.null.lo, "null_hi": self.null.hi,
        }  # fmt: skip
        known = {name: float(number) if np.isfinite(number) else None for name, number in numbers.items()}
        fixed = {"layer": layer, "metric": self.name, "unit": self.unit, "null_model": self.null_model}
        return {**fixed, **known, "n_tokens": self.n_tokens}
