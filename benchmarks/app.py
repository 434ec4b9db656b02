"""Claim: a feature page is drawn in 150 ms of script time over 10^8 codes.

    python benchmarks/app.py                      # makes a synthetic store of 10^8 codes in a temporary folder (minutes)
    python benchmarks/app.py --rows 1000000       # a smaller one
    python benchmarks/app.py --store demo-store   # a store that is there

Reruns the page's script through Streamlit's AppTest over features that were not shown before, so every query is asked anew
(the app's own cache is of no help); imports and the first run are left out. Prints medians; `--json` prints one object.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import statistics
import tempfile
import time
from pathlib import Path

TARGET_MS = 150


def synthetic(path: Path, rows: int) -> Path:
    """A sealed store of about `rows` codes with the statistics of real ones."""
    from synthetic_store import fill, open_run, prepare

    from sparse_rep.store import seal

    store, made = prepare(path, rows)
    with open_run(store, rows) as run:
        fill(run, made, rows, lambda write: write())
    seal(store, run.run_id)
    return path


def show_feature() -> None:
    """The script that AppTest runs."""
    import importlib

    from sparse_rep.app.shell import draw

    draw(importlib.import_module("sparse_rep.app.pages.feature"))


def measure(store: Path, n_features: int, seed: int) -> dict:
    """Script time of the page over `n_features` features that fire, in milliseconds."""
    from streamlit.testing.v1 import AppTest

    from sparse_rep.store import Store

    logging.disable(logging.WARNING)  # AppTest has no browser to warn
    os.environ["SPARSE_REP_STORE"] = str(store)
    opened = Store(store)
    run, dictionary, n_codes, n_latents = opened.query(
        "SELECT run_id, dictionary_id, sum(n_active)::UBIGINT, count(*) FROM features "
        "GROUP BY ALL ORDER BY 3 DESC LIMIT 1"
    ).to_pylist()[0].values()  # fmt: skip
    alive = opened.query(
        "SELECT feature FROM features WHERE run_id = $run AND dictionary_id = $dictionary AND NOT dead",
        run=run, dictionary=dictionary,
    )["feature"].to_pylist()  # fmt: skip
    chosen = random.Random(seed).sample(alive, min(n_features + 1, len(alive)))
    at = AppTest.from_function(show_feature, default_timeout=120)
    times, sizes = [], []
    for feature in chosen:
        for name, value in (("run", run), ("dictionary", dictionary), ("feature", str(feature))):
            at.query_params[name] = value
        began = time.perf_counter()
        at.run()
        times.append(1e3 * (time.perf_counter() - began))
        assert not at.exception, at.exception
        sizes.append(sum(len(block.value) for block in at.get("html")))
    times, sizes = times[1:], sizes[1:]  # the first one imports and compiles
    return {
        "claim": "feature page script time",
        "codes": n_codes,
        "latents": n_latents,
        "features_shown": len(times),
        "median_ms": round(statistics.median(times), 1),
        "p95_ms": round(statistics.quantiles(times, n=20)[-1], 1),
        "max_ms": round(max(times), 1),
        "html_kib": round(statistics.median(sizes) / 1024, 1),
        "target_ms": TARGET_MS,
        "holds": statistics.median(times) <= TARGET_MS,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, help="a store with a sealed run; a synthetic one is made without it")
    parser.add_argument("--rows", type=int, default=100_000_000, help="codes of the synthetic store")
    parser.add_argument("--features", type=int, default=40, help="features to show")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = given.store or synthetic(Path(folder) / "store", given.rows)
        result = measure(store.resolve(), given.features, given.seed)
    if given.json:
        print(json.dumps(result))
        return
    print(
        f"feature page over {result['codes']:,} codes: median {result['median_ms']} ms, p95 {result['p95_ms']} ms, "
        f"max {result['max_ms']} ms over {result['features_shown']} features ({result['html_kib']} KiB of HTML); "
        f"target {TARGET_MS} ms: {'holds' if result['holds'] else 'missed'}"
    )


if __name__ == "__main__":
    main()
