"""How long jobs talk to people and to programs: live bars on a terminal, plain lines elsewhere, JSON on request."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

EventSink = Callable[[dict[str, Any]], None]


class Reporter:
    """Progress and events of one command.

    With `as_json`, events go to stderr one JSON object a line and `result` prints the one object on stdout; without, people
    see bars with rate and time left on a terminal, or a line every `quiet_seconds` when the output is a file.
    """

    def __init__(self, as_json: bool = False, quiet_seconds: float = 15.0, silent: bool = False) -> None:
        self.as_json, self.quiet_seconds, self.silent = as_json, quiet_seconds, silent
        self.sinks: list[EventSink] = []
        self._bars: Any = None
        self._depth = 0

    def event(self, kind: str, **fields: Any) -> None:
        record = {"event": kind, "time": time.time(), **fields}
        for sink in self.sinks:
            sink(record)
        if self.as_json and not self.silent:
            print(json.dumps(record, default=str), file=sys.stderr, flush=True)  # noqa: T201

    @contextmanager
    def also_to(self, sink: EventSink) -> Iterator[None]:
        """Events go to `sink` too while the context is open."""
        self.sinks.append(sink)
        try:
            yield
        finally:
            self.sinks.remove(sink)

    def say(self, text: str) -> None:
        """A sentence for people."""
        if self.silent or self.as_json:
            return
        if self._bars is not None:
            self._bars.console.print(text, highlight=False)
        else:
            from rich.console import Console

            Console(stderr=True).print(text, highlight=False)

    def result(self, **fields: Any) -> None:
        """What the command came to. Printed on stdout as JSON where that was asked for."""
        for sink in self.sinks:
            sink({"event": "result", "time": time.time(), **fields})
        if self.as_json and not self.silent:
            print(json.dumps(fields, default=str), flush=True)  # noqa: T201

    @contextmanager
    def task(self, name: str, total: float, unit: str = "tokens", done: float = 0) -> Iterator[Callable[..., None]]:
        """A step with a known size. The yielded function takes the amount done since the last call (and a note)."""
        self.event("start", task=name, total=total, done=done, unit=unit)
        started = time.monotonic()
        meter = self._bar(name, total, unit, done) if self._interactive() else self._lines(name, total, unit, done)
        with meter as advance:
            yield advance
        self.event("end", task=name, seconds=round(time.monotonic() - started, 3))

    def _interactive(self) -> bool:
        return not self.silent and not self.as_json and sys.stderr.isatty()

    @contextmanager
    def _bar(self, name: str, total: float, unit: str, done: float) -> Iterator[Callable[..., None]]:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        if self._bars is None:
            self._bars = Progress(
                TextColumn("{task.description:<28}"),
                BarColumn(),
                TextColumn("{task.percentage:>3.0f}%"),
                TextColumn("{task.fields[rate]}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=Console(stderr=True),
            )
            self._bars.start()
        self._depth += 1
        started = time.monotonic()
        task = self._bars.add_task(name, total=total, completed=done, rate="", note="")
        fresh = 0.0

        def advance(amount: float, note: str = "") -> None:
            nonlocal fresh
            fresh += amount
            rate = fresh / max(time.monotonic() - started, 1e-9)
            fields = {"note": note} if note else {}
            self._bars.update(task, advance=amount, rate=f"{rate:,.0f} {unit}/s", **fields)

        try:
            yield advance
        finally:
            self._depth -= 1
            if self._depth == 0:
                self._bars.stop()
                self._bars = None

    @contextmanager
    def _lines(self, name: str, total: float, unit: str, done: float) -> Iterator[Callable[..., None]]:
        started = spoken = time.monotonic()
        fresh = 0.0

        def advance(amount: float, note: str = "") -> None:
            nonlocal fresh, spoken
            fresh += amount
            now = time.monotonic()
            if now - spoken < self.quiet_seconds:
                return
            spoken = now
            rate = fresh / (now - started)
            left = (total - done - fresh) / rate if rate else float("inf")
            self.event("progress", task=name, done=done + fresh, total=total, rate=rate, seconds_left=left, note=note)
            self.say(f"{name}: {done + fresh:,.0f} of {total:,.0f} {unit}, {rate:,.0f}/s, {left:,.0f} s left {note}")

        yield advance
        if fresh:
            seconds = time.monotonic() - started
            self.say(f"{name}: {done + fresh:,.0f} {unit} in {seconds:,.1f} s ({fresh / max(seconds, 1e-9):,.0f}/s)")
