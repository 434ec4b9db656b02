"""GGUF files, converted once to a plain Hugging Face directory in a cache."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

from sparse_rep.errors import ConfigError
from sparse_rep.hosting.digest import fingerprint
from sparse_rep.hosting.quiet import quiet_transformers

NOTE_FILE = "gguf_note.json"


def cache_root() -> Path:
    """`SPARSE_REP_CACHE`, or ~/.cache/sparse-rep."""
    return Path(os.environ.get("SPARSE_REP_CACHE") or Path.home() / ".cache" / "sparse-rep")


def plain_directory(file: Path, say: Callable[[str], None]) -> tuple[Path, str]:
    """The converted directory of a GGUF file, made on first use, and a note on its quantisation.

    Weights are kept in float32, so that nothing is lost. Two processes may convert at once: each works in its own temporary
    directory and the first to finish renames it into place. Raises ConfigError for a file that cannot be read as GGUF.
    """
    target = cache_root() / "gguf" / f"{file.stem}-{fingerprint([file])}"
    if not target.exists():
        say(f"converting {file.name} to a plain directory, once (about half a minute for 100 MB)")
        _convert(file, target)
    return target, json.loads((target / NOTE_FILE).read_text())["note"]


def _convert(file: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        _write(file, work)
        try:
            work.rename(target)
        except OSError:
            if not target.exists():  # otherwise another process was faster, and its result is the same
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _write(file: Path, directory: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        # transformers draws one of its bars here with tqdm itself, out of reach of its settings.
        with quiet_transformers(), redirect_stderr(io.StringIO()):
            note = quantisation_note(file)
            tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
            loaded = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise ConfigError(f"cannot read {file} as a GGUF language model: {error}") from error
    with quiet_transformers():
        plain = _without_quantisation(loaded)
        tokenizer.save_pretrained(directory)
        plain.save_pretrained(directory)
    (directory / NOTE_FILE).write_text(json.dumps({"note": note, "gguf": file.name}))


def _without_quantisation(loaded: Any) -> Any:
    """The same weights under a fresh config: a model read from GGUF refuses to be saved."""
    settings = loaded.config.to_dict()
    settings.pop("quantization_config", None)
    plain = type(loaded)(type(loaded.config)(**settings))
    plain.load_state_dict(loaded.state_dict())
    return plain


def quantisation_note(file: Path) -> str:
    """E.g. "Q4_1 GGUF (4-bit), dequantised to float32": the type that most weights are stored in."""
    from gguf import GGUFReader

    weights: Counter[str] = Counter()
    for tensor in GGUFReader(file).tensors:
        weights[tensor.tensor_type.name] += int(tensor.n_elements)
    kind = weights.most_common(1)[0][0]
    if kind in ("F32", "F16", "BF16"):
        return f"{kind} GGUF"
    bits = re.search(r"\d+", kind)
    return f"{kind} GGUF ({bits[0]}-bit), dequantised to float32" if bits else f"{kind} GGUF, dequantised to float32"
