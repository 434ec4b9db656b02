"""Keeps the checkout's root off the import path: our `kernels/` must never be found as Hugging Face's `kernels`."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]
