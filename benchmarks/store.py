"""What the store costs: bytes a code, write rate, seal time, query latency, and readers beside writers.

    python benchmarks/store.py                      # 10^8 synthetic codes of 16,384 latents: minutes, 1 GB in a temporary folder
    python benchmarks/store.py --rows 10000000 --soak 10 --json
    python benchmarks/store.py --store demo-store   # only the sizes of a store that is there

Codes are synthetic with the statistics of real ones (`sparse_rep.synthetic`); making them is not timed. Latencies are of one
warm connection, over random latents that fire.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow
from synthetic_store import DICTIONARY, fill, open_run, prepare, shards

from sparse_rep.store import Store, seal

TARGETS = {
    "bytes_a_code": ("<=", 2.4),
    "write_codes_per_s": (">=", 10e6),
    "seal_s": ("<=", 60.0),
    "top20_index_p95_ms": ("<=", 5.0),
    "top20_raw_p95_ms": ("<=", 30.0),
    "soak_reader_errors": ("<=", 0),
}
"""At 10^8 codes on two cores."""


def write(path: Path, rows: int) -> dict[str, Any]:
    store, made = prepare(path, rows)
    seconds = 0.0

    def timed(write_one: Callable[[], None]) -> None:
        nonlocal seconds
        at = time.perf_counter()
        write_one()
        seconds += time.perf_counter() - at

    with open_run(store, rows) as run:
        fill(run, made, rows, timed)
    n = store.query("SELECT n_rows, bytes FROM runs").to_pylist()[0]
    return {
        "codes": n["n_rows"],
        "live_bytes_a_code": round(n["bytes"] / n["n_rows"], 3),
        "write_codes_per_s": round(n["n_rows"] / seconds),
    }


def sealed(path: Path) -> dict[str, Any]:
    """In a process of its own, so that its peak memory is its own."""
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    process = context.Process(target=_seal, args=(path, answers))
    process.start()
    result = answers.get()
    process.join()
    return result


def _seal(path: Path, answers: Any) -> None:
    store = Store(path)
    phases: dict[str, float] = {}
    (run_id,) = store.run_ids()
    started = last = time.perf_counter()

    def progress(phase: str, share: float) -> None:
        nonlocal last
        now = time.perf_counter()
        phases[phase] = phases.get(phase, 0.0) + now - last
        last = now

    seal(store, run_id, by_token=False, progress=progress)
    seconds = time.perf_counter() - started
    n = store.query("SELECT n_rows, bytes FROM runs").to_pylist()[0]
    answers.put(
        {
            "seal_s": round(seconds, 2),
            "seal_phases_s": {name.rpartition(": ")[2]: round(s, 2) for name, s in phases.items()},
            "seal_peak_rss_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
            "bytes_a_code": round(n["bytes"] / n["n_rows"], 3),
        }
    )


def latencies(path: Path, queries: int, seed: int) -> dict[str, Any]:
    store = Store(path)
    con = store.connect()
    alive = store.query("SELECT feature FROM features WHERE NOT dead")["feature"].to_pylist()
    chosen = np.random.default_rng(seed).choice(alive, min(queries, len(alive)), replace=False).tolist()
    index = "SELECT rank, tok, act FROM feature_top WHERE dictionary_id = ? AND feature = ? ORDER BY rank"
    raw = "SELECT tok, act FROM top(?, ?, 20)"
    result = {}
    for name, sql in (("index", index), ("raw", raw)):
        times = []
        for feature in chosen[:5] + chosen:  # the first few warm the caches
            at = time.perf_counter()
            rows = con.execute(sql, [DICTIONARY, feature]).fetchall()
            times.append(1e3 * (time.perf_counter() - at))
            assert rows
        times = times[5:]
        result[f"top20_{name}_median_ms"] = round(statistics.median(times), 2)
        result[f"top20_{name}_p95_ms"] = round(statistics.quantiles(times, n=20)[-1], 2)
    return result


def soak(path: Path, seconds: float) -> dict[str, Any]:
    """Two writers on runs of their own and two readers that open the store anew for every query."""
    rows = 4_000_000
    prepare(path, rows)
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    until = time.time() + seconds
    workers = [context.Process(target=_writer, args=(path, rows, i, until, answers)) for i in range(2)]
    workers += [context.Process(target=_reader, args=(path, until, answers)) for _ in range(2)]
    for worker in workers:
        worker.start()
    found = [answers.get() for _ in workers]
    for worker in workers:
        worker.join()
    return {
        "soak_s": seconds,
        "soak_reads": sum(n for kind, n, _ in found if kind == "reads"),
        "soak_shards_written": sum(n for kind, n, _ in found if kind == "shards"),
        "soak_reader_errors": sum(len(errors) for kind, _, errors in found if kind == "reads"),
        "soak_errors": [error for _, _, errors in found for error in errors][:3],
    }


def _writer(path: Path, rows: int, number: int, until: float, answers: Any) -> None:
    store, made = prepare(path, rows)
    codes = list(shards(made, rows))
    done = round_ = 0
    while time.time() < until:
        with open_run(store, rows, name=f"writer{number}-{round_}") as run:
            for name, span, columns in codes:
                run.write_shard(name, **span, codes={DICTIONARY: columns})
                done += 1
                if time.time() >= until:
                    break
            else:
                run.finish()
        if run.status == "complete":
            seal(store, run.run_id, by_token=False)
        round_ += 1
    answers.put(("shards", done, []))


def _reader(path: Path, until: float, answers: Any) -> None:
    reads, errors = 0, []
    while time.time() < until:
        try:
            rows = (
                Store(path).query("SELECT run_id, count(*) AS n, max(act) AS act FROM acts GROUP BY run_id").to_pylist()
            )
            assert all(r["n"] > 0 for r in rows)
        except Exception as error:  # whatever a reader sees is the finding
            errors.append(f"{type(error).__name__}: {error}"[:300])
        reads += 1
    answers.put(("reads", reads, errors))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, help="report the sizes of this store and stop")
    parser.add_argument("--rows", type=int, default=100_000_000)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument(
        "--soak", type=float, default=60.0, help="seconds of two writers and two readers; 0 leaves it out"
    )
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.store:
        sizes = "SELECT run_id, n_rows, bytes, bytes / n_rows AS bytes_a_code FROM runs WHERE n_rows > 0"
        for row in Store(args.store).query(sizes).to_pylist():
            print(json.dumps(row))
        return
    result: dict[str, Any] = {"duckdb": duckdb.__version__, "pyarrow": pyarrow.__version__}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "store"
        result |= write(path, args.rows)
        result |= sealed(path)
        result |= latencies(path, args.queries, seed=0)
        if args.soak:
            result |= soak(Path(folder) / "soak", args.soak)
    if args.json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        sign, target = TARGETS.get(name, ("", None))
        verdict = (
            ""
            if target is None
            else f"   target {sign} {target:g}: {'holds' if _holds(value, sign, target) else 'MISSED'}"
        )
        print(f"{name:>22}  {value}{verdict}")


def _holds(value: float, sign: str, target: float) -> bool:
    return value <= target if sign == "<=" else value >= target


if __name__ == "__main__":
    main()
