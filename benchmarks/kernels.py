"""Times every kernel against torch and the loops that public libraries run, on one CUDA device.

    python benchmarks/kernels.py [encode] [decode] [pursuit] [train] [small] [other] [--json]

Prints Markdown tables (or one JSON object): medians in milliseconds over random data, the competitors of a row timed in turn
within one loop, so that a clock that changes on the way changes them alike, with L2 flushed between calls.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable

import torch
import triton
from torch import Tensor
from torch.nn.functional import normalize

from sparse_rep.kernels import ops, reference, topk

N = 8192
BF16 = torch.bfloat16
ENCODERS = [(2304, 65_536, 64, 1.12), (4096, 131_072, 64, 1.08), (768, 24_576, 32, 1.35), (2304, 16_384, 64, 1.25)]
PURSUITS = [(2304, 16_384, 64, 1.2), (768, 24_576, 32, 1.35), (768, 6144, 32, None)]


def medians(calls: dict[str, Callable[[], object]], repeats: int = 20) -> dict[str, float]:
    """Milliseconds of each call, in turn within each repeat."""
    flush = torch.empty(256 * 2**20, dtype=torch.int8, device="cuda")
    times: dict[str, list[tuple[torch.cuda.Event, torch.cuda.Event]]] = {name: [] for name in calls}
    for call in calls.values():
        call()
        call()
    for _ in range(repeats):
        for name, call in calls.items():
            start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            # Three passes: the host runs ahead meanwhile, so that launches are not part of the time.
            for _ in range(3):
                flush.zero_()
            start.record()
            call()
            stop.record()
            times[name].append((start, stop))
        torch.cuda.synchronize()
    return {name: statistics.median(start.elapsed_time(stop) for start, stop in pairs) for name, pairs in times.items()}


def copy_bandwidth() -> float:
    """Bytes read and written a second by a large copy."""
    source = torch.randn(2**28, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.nbytes / medians({"copy": lambda: target.copy_(source)})["copy"] * 1e3


REPORT: dict[str, object] = {}
"""Everything found, by heading."""


def table(title: str, header: list[str], rows: list[list[str]]) -> None:
    REPORT[title] = [dict(zip(header, row, strict=True)) for row in rows]


def sentence(title: str, text: str) -> None:
    REPORT[title] = text


def print_report() -> None:
    """As Markdown."""
    for title, found in REPORT.items():
        if isinstance(found, str):
            print(f"\n{title}: {found}")
            continue
        assert isinstance(found, list)
        print(f"\n### {title}\n\n| {' | '.join(found[0])} |\n|{'---|' * len(found[0])}")
        for row in found:
            print(f"| {' | '.join(row.values())} |")


def encoder(d: int, m: int, dtype: torch.dtype = BF16, n: int = N) -> tuple[Tensor, Tensor, Tensor]:
    W = torch.randn(m, d, device="cuda", dtype=dtype) / d**0.5
    return torch.randn(n, d, device="cuda", dtype=dtype), W, torch.zeros(m, device="cuda")


def public_topk_encode(x: Tensor, W_enc: Tensor, b_enc: Tensor, k: int) -> Tensor:
    """The operations of sae-lens 6.54's TopK encoder: product, top-k, ReLU, scatter into a dense matrix."""
    pre = x @ W_enc.T + b_enc
    best = torch.topk(pre, k=k, dim=-1)
    return torch.zeros_like(pre).scatter_(-1, best.indices, best.values.relu())


def public_pursuit(x: Tensor, atoms: Tensor, k: int) -> Tensor:
    """The operations of sae-lens 6.54's matching pursuit, its early stops off."""
    residual, acts = x.clone(), x.new_zeros((len(x), len(atoms)))
    for _ in range(k):
        indices = (residual @ atoms.T).relu().max(dim=1, keepdim=True).indices
        rows = atoms[indices[:, 0]]
        values = (residual * rows).sum(dim=-1, keepdim=True).relu()
        acts.scatter_add_(1, indices, values)
        residual = residual - values * rows
    return acts


def bench_encode() -> None:
    rows = []
    for d, m, k, target in ENCODERS:
        x, W, b = encoder(d, m)
        bias = b.to(BF16)
        t = medians(
            {
                "product": lambda x=x, W=W: x @ W.T,
                "ours": lambda x=x, W=W, b=b, k=k: ops.topk_encode(x, W, b, k, check=False),
                "fp32 selection": lambda x=x, W=W, b=b, k=k: ops.topk_encode(x, W, b, k, select_fp32=True, check=False),
                "torch": lambda x=x, W=W, b=bias, k=k: torch.topk(torch.addmm(b, x, W.T), k),
                "public": lambda x=x, W=W, b=bias, k=k: public_topk_encode(x, W, b, k),
            }
        )
        wide = [tensor.float() for tensor in (x, W, b)]
        t |= medians(
            {
                "public fp32": lambda a=wide, k=k: public_topk_encode(a[0], a[1], a[2], k),
                "ours fp32": lambda a=wide, k=k: ops.topk_encode(a[0], a[1], a[2], k, check=False),
            },
            repeats=3,
        )
        ratio = t["ours"] / t["product"]
        cells = [
            f"{t[c]:.2f}" for c in ("product", "ours", "fp32 selection", "torch", "public", "ours fp32", "public fp32")
        ]
        speedups = [f"{t['public'] / t['ours']:.1f}", f"{t['public fp32'] / t['ours']:.1f}"]
        rows.append([f"{d} x {m:,}, k={k}", *cells, f"**{ratio:.3f}** (target {target})", *speedups])
    header = ["bf16", "cuBLAS product", "ours", "ours, fp32 selection", "torch addmm + topk", "public loop"]
    header += ["ours, fp32", "public loop, fp32", "ours / product", "x public bf16", "x public fp32"]
    table("topk_encode", header, rows)


def bench_decode(bandwidth: float) -> None:
    d, m, k = 2304, 65_536, 64
    W = torch.randn(m, d, device="cuda", dtype=BF16).requires_grad_()
    values = torch.rand(N, k, device="cuda").requires_grad_()
    upstream = torch.randn(N, d, device="cuda", dtype=BF16)
    uniform = torch.randint(m, (N, k), device="cuda")
    popular = (torch.rand(N, k, device="cuda") ** 8 * m).long()
    rows = []
    for name, indices in (("uniform", uniform), ("skewed: the top latent in every token", popular)):
        out = ops.sparse_decode(values, indices, W)
        t = medians(
            {
                "forward": lambda i=indices: ops.sparse_decode(values, i, W),
                "backward": lambda o=out: torch.autograd.grad(o, (values, W), upstream, retain_graph=True),
                "torch": lambda i=indices: torch.nn.functional.embedding_bag(
                    i, W.detach(), per_sample_weights=values.detach().to(BF16), mode="sum"
                ),
            }
        )
        floor = N * k * d * 2 / bandwidth * 1e3
        share = f"**{floor / t['forward']:.0%}** (target 70%)"
        rows.append([name, f"{t['forward']:.3f}", share, f"{t['torch']:.3f}", f"{t['backward']:.2f}"])
    header = ["2304 x 65,536, k=64", "forward", "of copy bandwidth by rows read", "torch embedding_bag", "backward"]
    table("sparse_decode, bf16", header, rows)


def bench_pursuit(bandwidth: float) -> None:
    rows = []
    for d, m, k, target in PURSUITS:
        x = torch.randn(N, d, device="cuda", dtype=BF16)
        atoms = normalize(torch.randn(m, d, device="cuda"), dim=-1).to(BF16)
        gram = ops.gram_matrix(atoms)
        t = medians(
            {
                "Dx": lambda x=x, a=atoms: x @ a.T,
                "DD": lambda a=atoms: a @ a.T,
                "gram": lambda a=atoms: ops.gram_matrix(a),
                "ours": lambda x=x, a=atoms, k=k: ops.matching_pursuit(x, a, k, check=False),
                "gram given": lambda x=x, a=atoms, k=k, g=gram: ops.matching_pursuit(x, a, k, gram=g, check=False),
            },
            repeats=10,
        )
        wide = (x.float(), atoms.float())
        t |= medians({"bf16": lambda x=x, a=atoms, k=k: public_pursuit(x, a, k)}, repeats=3)
        t |= medians({"fp32": lambda a=wide, k=k: public_pursuit(*a, k)}, repeats=1)
        t |= medians({"ours fp32": lambda a=wide, k=k: ops.matching_pursuit(*a, k, check=False)}, repeats=2)
        floor = N * k * m * 2 / bandwidth * 1e3
        products = t["Dx"] + t["DD"]
        limit = "" if target is None else f" (target {target} x floor + products = {target * floor + products:.2f})"
        cells = [f"{v:.2f}" for v in (floor, products, t["gram"], t["gram given"])]
        tail = [f"{t[c]:.1f}" for c in ("bf16", "fp32", "ours fp32")]
        speedups = [f"{t['bf16'] / t['ours']:.1f}", f"{t['fp32'] / t['ours']:.1f}", f"{t['fp32'] / t['ours fp32']:.1f}"]
        rows.append([f"{d} x {m:,}, k={k}", *cells, f"**{t['ours']:.2f}**{limit}", *tail, *speedups])
    header = ["bf16", "byte floor", "cuBLAS Dx + DD^T", "our Gram", "ours, Gram given", "ours, Gram included"]
    header += [
        "public loop bf16",
        "public loop fp32",
        "ours fp32",
        "x public bf16",
        "x public fp32",
        "fp32 x public fp32",
    ]
    table("matching_pursuit", header, rows)
    header = [
        "bf16",
        "method",
        "tokens in the oracle's order",
        "mean |final norm / oracle's - 1|",
        "worst",
        "tokens off by more than 0.1 %",
    ]
    table("matching_pursuit against the fp64 oracle, 1,024 tokens", header, agreement())
    d, m, k, _ = PURSUITS[0]
    x = torch.randn(N, d, device="cuda", dtype=BF16).requires_grad_()
    atoms = normalize(torch.randn(m, d, device="cuda"), dim=-1).to(BF16).requires_grad_()
    values, _, _ = ops.matching_pursuit(x, atoms, k, check=False)
    upstream = torch.randn_like(values)
    t = medians({"b": lambda: torch.autograd.grad(values, (x, atoms), upstream, retain_graph=True)}, repeats=5)
    sentence(f"matching_pursuit backward, {d} x {m:,}, k={k}", f"{t['b']:.2f} ms")


def agreement() -> list[list[str]]:
    """How closely bf16 codes follow the fp64 pursuit of the same bf16 numbers; norms are those of x minus the decoded codes."""
    rows = []
    for d, m, k, _ in PURSUITS:
        x = torch.randn(1024, d, device="cuda", dtype=BF16)
        atoms = normalize(torch.randn(m, d, device="cuda"), dim=-1).to(BF16)
        oracle = reference.matching_pursuit(x.double(), atoms.double(), k)
        for method in ("gram", "product"):
            values, indices, _ = ops.matching_pursuit(x, atoms, k, method=method, check=False)
            left = x.double() - ops.sparse_decode(values.double(), indices, atoms.double(), backend="torch")
            off = (left.norm(dim=-1) / oracle[2][:, -1] - 1).abs()
            same = (indices == oracle[1]).all(-1).double().mean()
            cells = [f"{same:.1%}", f"{off.mean():.1e}", f"{off.max():.1e}", f"{(off > 1e-3).double().mean():.2%}"]
            rows.append([f"{d} x {m:,}, k={k}", method, *cells])
    return rows


def bench_train() -> None:
    d, m, k = 2304, 65_536, 64
    x, W_enc, b = (t.requires_grad_() for t in encoder(d, m))
    W_dec = torch.randn(m, d, device="cuda", dtype=BF16).requires_grad_()
    upstream = torch.randn(N, d, device="cuda", dtype=BF16)

    def both() -> None:
        values, indices = ops.topk_encode(x, W_enc, b, k, check=False)
        torch.autograd.grad(ops.sparse_decode(values, indices, W_dec), (x, W_enc, b, W_dec), upstream)

    t = medians({"both": both})["both"]
    sentence(f"Encode and decode, forward and backward, {d} x {m:,}, k={k}, bf16", f"**{t:.2f} ms** (target 9)")


def bench_small() -> None:
    rows = []
    for n, d, m, k in [
        (n, d, m, k) for d, m, k in ((768, 3072, 32), (768, 24_576, 32), (2304, 65_536, 64)) for n in (1, 16, 128, 1024)
    ]:
        x, W, b = encoder(d, m, n=n)
        bias = b.to(BF16)
        atoms = normalize(W.float(), dim=-1).to(BF16)
        t = medians(
            {
                "ours": lambda x=x, W=W, b=b, k=k: ops.topk_encode(x, W, b, k, check=False, backend="triton"),
                "exact torch": lambda x=x, W=W, b=b, k=k: topk.encode_torch(x, W, b, k, True, False),
                "torch": lambda x=x, W=W, b=bias, k=k: torch.topk(torch.addmm(b, x, W.T), k),
            }
        )
        if m <= 24_576:
            gram = ops.gram_matrix(atoms)
            t |= medians(
                {
                    "pursuit": lambda x=x, a=atoms, g=gram, k=k: ops.matching_pursuit(x, a, k, gram=g, check=False),
                    "loop": lambda x=x, a=atoms, k=k: public_pursuit(x, a, k),
                },
                repeats=5,
            )
        rows.append(
            [
                f"{n}",
                f"{d} x {m:,}, k={k}",
                *(f"{t[c]:.3f}" if c in t else "" for c in ("ours", "exact torch", "torch", "pursuit", "loop")),
            ]
        )
    table(
        "Small batches, bf16",
        ["n", "shape", "topk_encode", "torch, ties settled", "torch addmm + topk", "pursuit", "public loop"],
        rows,
    )


def bench_other() -> None:
    rows = []
    d, m, k = 2304, 65_536, 64
    x, W, b = encoder(d, m)
    threshold = torch.full((m,), float(ops.topk_encode(x[:512], W, b, k)[0][:, -1].mean()), device="cuda")
    pre = torch.randn(2048, 24_576, device="cuda", dtype=BF16)
    t = medians(
        {
            "product": lambda: x @ W.T,
            "threshold": lambda: ops.threshold_encode(x, W, b, threshold, check=False),
            "threshold torch": lambda: ops.threshold_encode(x, W, b, threshold, check=False, backend="torch"),
            "batch_topk": lambda: ops.batch_topk(pre, 32, check=False),
            "batch torch": lambda: pre.flatten().topk(2048 * 32),
        },
        repeats=10,
    )
    rows.append(
        [
            "threshold_encode, 2304 x 65,536, L0 about 64",
            f"{t['threshold']:.2f}",
            f"dense torch {t['threshold torch']:.2f}, product {t['product']:.2f}",
        ]
    )
    rows.append(
        [
            "batch_topk, 2048 x 24,576, k=32",
            f"{t['batch_topk']:.2f}",
            f"torch.topk of the flat batch {t['batch torch']:.2f}",
        ]
    )
    atoms = normalize(torch.randn(m, d, device="cuda"), dim=-1).to(BF16)
    steps = 8
    t = medians(
        {
            "product": lambda: x @ atoms.T,
            "pursuit": lambda: ops.matching_pursuit(x, atoms, steps, method="product", check=False),
            "torch": lambda: ops.matching_pursuit(x, atoms, steps, method="product", backend="torch", check=False),
            "loop": lambda: public_pursuit(x, atoms, steps),
        },
        repeats=5,
    )
    rows.append(
        [
            f"matching_pursuit by products, {d} x {m:,}, k={steps}",
            f"{t['pursuit']:.2f}",
            f"public loop {t['loop']:.2f}, our torch path {t['torch']:.2f}, {steps} products {steps * t['product']:.2f}",
        ]
    )
    table("Others, bf16", ["op", "ours", "beside"], rows)


BENCHES: dict[str, Callable[[float], None]] = {
    "encode": lambda _: bench_encode(),
    "decode": bench_decode,
    "pursuit": bench_pursuit,
    "train": lambda _: bench_train(),
    "small": lambda _: bench_small(),
    "other": lambda _: bench_other(),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", nargs="*", choices=[[], *BENCHES], metavar="WHICH", help="all where left out")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = False
    bandwidth = copy_bandwidth()
    versions = f"torch {torch.__version__}, triton {triton.__version__}, copy {bandwidth / 1e12:.2f} TB/s, n={N}"
    sentence("Measured on", f"{torch.cuda.get_device_name()}, {versions}")
    for name in args.which or BENCHES:
        BENCHES[name](bandwidth)
    if args.json:
        print(json.dumps(REPORT))
    else:
        print_report()


if __name__ == "__main__":
    main()
