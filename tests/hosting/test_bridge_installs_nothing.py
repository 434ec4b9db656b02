"""transformer-lens 3.9 installs torchvision by itself for multimodal models; inside our bridge it must not."""

import subprocess
import sys
from pathlib import Path

import pytest

from sparse_rep.config import ModelConfig
from sparse_rep.hosting.bridge import without_installing
from sparse_rep.hosting.load import load_model


def test_an_install_is_refused_and_other_commands_run() -> None:
    with without_installing():
        with pytest.raises(OSError, match="not run"):
            subprocess.check_call([sys.executable, "-m", "pip", "install", "nothing"])
        assert subprocess.check_call([sys.executable, "-c", "pass"]) == 0
    assert subprocess.check_call.__module__ == "subprocess"


def test_bridging_a_multimodal_model_starts_no_installer(tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[object] = []
    monkeypatch.setattr(subprocess, "Popen", lambda *args, **kwargs: started.append(args))
    folder: Path = tiny("gemma3")
    load_model(ModelConfig(name=str(folder), device="cpu", backend="transformer-lens"))
    assert started == []
