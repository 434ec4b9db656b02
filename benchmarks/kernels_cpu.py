"""Matching pursuit on a CPU beside sae-lens' loop, its early stops off: equal codes, and how long each takes.

python benchmarks/kernels_cpu.py
"""

from __future__ import annotations

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
    print(f"n={N}, d={D}, m={M}, k={K}, fp32, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"codes: {same:.1%} of rows name the same atoms; largest difference {(mine - theirs).abs().max():.1e}")
    print(f"sae-lens {sae_lens.__version__} loop   {loop:7.3f} s")
    print(f"ours, Gram matrix given  {given:7.3f} s   {loop / given:5.1f}x")
    print(f"ours, Gram matrix built  {built:7.3f} s   {loop / built:5.1f}x")


if __name__ == "__main__":
    main()
