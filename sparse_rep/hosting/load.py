"""`load_model`: from a name to a model we can look inside."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from sparse_rep.config import ModelConfig
from sparse_rep.errors import ConfigError
from sparse_rep.hosting.locate import OTHERWISE, Located, hub_answers, locate
from sparse_rep.hosting.model import HostedModel, ModelOrigin
from sparse_rep.hosting.quiet import quiet_transformers


def load_model(config: ModelConfig, on_status: Callable[[str], None] | None = None) -> HostedModel:
    """Load a model, ready for inference on its device.

    Args:
        config: `name` is a hub id, a directory in Hugging Face layout, a *.gguf file, pip:NAME for a model that a Python
            package carries, or pkg:NAME for one that ships with this one. GGUF files are converted once into the cache
            (`SPARSE_REP_CACHE`, default ~/.cache/sparse-rep).
        on_status: told, in a sentence, what takes time.

    Raises:
        ConfigError: no such model, a family without hooks, or a device that is not there.
    """
    say = on_status or (lambda _: None)
    device = resolve_device(config.device)
    located = locate(config.name, say)
    model, tokenizer = _read(located, config, say)
    origin = ModelOrigin(config.name, located.revision or _commit(config), located.note)
    model = model.to(device)
    if config.backend == "transformer-lens":
        from sparse_rep.hosting.bridge import BridgedModel

        return BridgedModel(model, tokenizer, origin)
    from sparse_rep.hosting.huggingface import HuggingFaceModel

    return HuggingFaceModel(model, tokenizer, origin)


def load_tokenizer(config: ModelConfig, on_status: Callable[[str], None] | None = None) -> Any:
    """The tokenizer alone, for work on text that needs no model. Raises ConfigError as `load_model` does."""
    from transformers import AutoTokenizer

    say = on_status or (lambda _: None)
    located = locate(config.name, say)
    return _pretrained(AutoTokenizer, located, config, _offline(located, config, say))


def load_config(config: ModelConfig, on_status: Callable[[str], None] | None = None) -> Any:
    """The Hugging Face config alone. Raises ConfigError as `load_model` does."""
    from transformers import AutoConfig

    say = on_status or (lambda _: None)
    located = locate(config.name, say)
    return _pretrained(AutoConfig, located, config, _offline(located, config, say))


def resolve_device(device: str) -> str:
    """auto -> cuda where there is one, else cpu. Raises ConfigError for a device that is not there."""
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, index = device.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdecimal()):
        raise ConfigError(f"unknown device {device!r}: use auto, cpu, cuda or cuda:N")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        found = torch.cuda.device_count()
        raise ConfigError(
            f"device {device} is not available: torch sees {found} CUDA devices; use --device cpu or auto"
        )
    return device


def _read(located: Located, config: ModelConfig, say: Callable[[str], None]) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    offline = _offline(located, config, say)
    say(f"loading {config.name}")
    tokenizer = _pretrained(AutoTokenizer, located, config, offline)
    model = _pretrained(AutoModelForCausalLM, located, config, offline, dtype=getattr(torch, config.dtype))
    if getattr(model.config.get_text_config(), "attn_logit_softcapping", None):
        # SDPA has no soft cap, and transformers up to 5.17 at least leaves it out of Gemma 2 without a word.
        model.set_attn_implementation("eager")
    return model, tokenizer


def _commit(config: ModelConfig) -> str:
    """The commit a hub model was just read from: the cache keeps each under a folder of that name."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(config.name, "config.json", revision=config.revision or "main")
    return Path(found).parent.name if isinstance(found, str) else "unknown"


def _offline(located: Located, config: ModelConfig, say: Callable[[str], None]) -> bool:
    if located.revision is not None:
        return True
    say(f"asking the Hugging Face Hub for {config.name}")
    return not hub_answers()


def _pretrained(kind: Any, located: Located, config: ModelConfig, offline: bool, **options: Any) -> Any:
    if located.revision is None:
        options["revision"] = config.revision or "main"
    try:
        with quiet_transformers():
            return kind.from_pretrained(located.path, local_files_only=offline, **options)
    except (OSError, ValueError, KeyError) as error:
        if located.revision is None:
            why = "the Hugging Face Hub could not be reached" if offline else "the Hugging Face Hub does not offer it"
            raise ConfigError(
                f"no model {config.name!r}: it is neither a directory nor a *.gguf file here, it is not in the local "
                f"cache, and {why}; {OTHERWISE}"
            ) from error
        raise ConfigError(f"cannot load {config.name}: {str(error).splitlines()[0]}") from error
