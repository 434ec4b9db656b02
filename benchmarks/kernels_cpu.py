"""Matching pursuit on a CPU beside sae-lens' loop, its early stops off: equal codes, and how long each takes.

python benchmarks/kernels_cpu.py [--json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import sae_lens
import torch
from sae_lens.saes.matching_pursuit_sae import _encode_matching_pursuit

from sparse_rep.kernels import ops

N, D, M, K = 512, 576, 4608, 32


def seconds(call: Callable[[], object], repeats: int = 5) -> float:
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.manual_seed(0)
    atoms = torch.nn.functional.normalize(torch.randn(M, D), dim=-1)
    x = torch.randn(N, D)
    gram = ops.gram_matrix(atoms)

    values, indices, _ = ops.matching_pursuit(x, atoms, K, gram=gram)
    mine = torch.zeros(N, M).scatter_add_(1, indices, values)
    theirs = _encode_matching_pursuit(x, atoms, 0.0, K, stop_on_duplicate_support=False)
    same = ((mine != 0) == (theirs != 0)).all(-1).float().mean()

    loop = seconds(lambda: _encode_matching_pursuit(x, atoms, 0.0, K, stop_on_duplicate_support=False), repeats=3)
    given = seconds(lambda: ops.matching_pursuit(x, atoms, K, gram=gram, check=False))
    built = seconds(lambda: ops.matching_pursuit(x, atoms, K, check=False))
    result = {
        "n": N,
        "d": D,
        "m": M,
        "k": K,
        "dtype": "float32",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "sae_lens": sae_lens.__version__,
        "rows_with_equal_atoms": float(same),
        "largest_difference": float((mine - theirs).abs().max()),
        "sae_lens_s": round(loop, 4),
        "gram_given_s": round(given, 4),
        "gram_given_times_faster": round(loop / given, 2),
        "gram_built_s": round(built, 4),
        "gram_built_times_faster": round(loop / built, 2),
    }
    if args.json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        print(f"{name:>24}  {value}")


if __name__ == "__main__":
    main()
