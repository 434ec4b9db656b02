"""Rows of the `metrics` table, of one dictionary or of a sweep's."""

from __future__ import annotations

from collections.abc import Mapping

from sparse_rep.evaluation.reconstruction import Metric
from sparse_rep.store import RunWriter

Row = tuple[str, str, str | None, int | None, str, float]
"""dictionary_id, split, domain, step, metric, value."""


class MetricRows:
    """Gathered while training and written at each checkpoint, so that a resumed run has each row once."""

    def __init__(self, run: RunWriter) -> None:
        self._run = run
        self._pending: list[Row] = []
        self._last: dict[str, dict[str, float]] = {}

    def add(self, dictionary_id: str, step: int, values: dict[str, float]) -> None:
        if "fvu" in values:
            values = {"explained_variance": 1 - values["fvu"], **values}
        self._last[dictionary_id] = values
        self._pending += [(dictionary_id, "train", None, step, name, value) for name, value in values.items()]

    def note(self) -> str:
        """The latest figures, for a progress bar; of a sweep the least and the greatest."""
        explained = [v["explained_variance"] for v in self._last.values() if "explained_variance" in v]
        if not explained:
            return ""
        dead = [v.get("dead_share", 0) for v in self._last.values()]
        if len(explained) == 1:
            return f"explained variance {explained[0]:.3f}, dead {dead[0]:.1%}"
        return (
            f"{len(explained)} dictionaries: explained variance {min(explained):.3f} to {max(explained):.3f}, "
            f"dead {min(dead):.1%} to {max(dead):.1%}"
        )

    def flush(self, step: int) -> None:
        self._write(f"train-{step:09d}", self._pending)
        self._pending = []

    def final(self, split: str, metrics: Mapping[str, list[Metric]]) -> None:
        rows: list[Row] = [
            (dictionary_id, split, m.domain, None, m.name, m.value) for dictionary_id, ms in metrics.items() for m in ms
        ]
        self._write(f"final-{split}", rows)

    def _write(self, part: str, rows: list[Row]) -> None:
        if rows:
            names = ("dictionary_id", "split", "domain", "step", "metric", "value")
            self._run.write_table(
                "metrics", dict(zip(names, map(list, zip(*rows, strict=True)), strict=True)), part=part
            )
