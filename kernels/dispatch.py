"""Which implementation runs: decided a call, by device and dtype, never at import."""

from __future__ import annotations

import importlib.util
from typing import Literal

import torch

Backend = Literal["auto", "triton", "torch", "reference"]
Choice = Literal["triton", "torch", "reference"]

TRITON_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def choose(backend: Backend, device: torch.device | str, dtype: torch.dtype = torch.float32) -> Choice:
    """ "auto": Triton on a CUDA device that compiles it, plain torch elsewhere.

    "triton" raises ValueError where it cannot run; a CPU runs it only under Triton's interpreter (TRITON_INTERPRET=1).
    """
    if backend in ("reference", "torch"):
        return backend
    usable = dtype in TRITON_DTYPES and _triton_runs_on(torch.device(device))
    if backend == "auto":
        return "triton" if usable and torch.device(device).type == "cuda" else "torch"
    if backend != "triton":
        raise ValueError(f'backend={backend!r} must be "auto", "triton", "torch" or "reference"')
    if not usable:
        raise ValueError(
            f'backend="triton" needs Triton, a CUDA device and fp32, fp16 or bf16, not {dtype} on {device}; use backend="auto"'
        )
    return "triton"


def backend_name(device: torch.device | str, backend: Backend = "auto", dtype: torch.dtype = torch.float32) -> str:
    """ "triton", "torch" or "reference": what a backend setting comes to on a device, for the run's record."""
    return choose(backend, device, dtype)


def _triton_runs_on(device: torch.device) -> bool:
    if importlib.util.find_spec("triton") is None:
        return False
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    from triton import knobs

    return device.type == "cpu" and knobs.runtime.interpret
