"""What token ids mean: the tokenizer's pieces, and text that people can read."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from typing import Any

SPACE = "\u2581"
"""SentencePiece's mark for a space."""


def vocabulary(tokenizer: Any) -> dict[str, list[Any]]:
    """Columns token_id, piece and text of every id a tokenizer has.

    `text` is what the piece stands for. Pieces of byte-level tokenizers that are not whole characters show the odd bytes as
    \\xe2 and the like.
    """
    ids = list(range(len(tokenizer)))
    pieces = [piece or "" for piece in tokenizer.convert_ids_to_tokens(ids)]
    added = set(tokenizer.get_added_vocab())
    byte_level = _is_byte_level(tokenizer)
    texts = [p if p in added else piece_text(p, byte_level) for p in pieces]
    return {"token_id": ids, "piece": pieces, "text": texts}


def piece_text(piece: str, byte_level: bool) -> str:
    """Readable text of one piece: "Ġthe" or "▁the" -> " the", "âĢ" -> "\\xe2\\x80", "<0x0A>" -> a line break."""
    if byte_level:
        table = _byte_of_letter()
        if all(letter in table for letter in piece):
            return bytes(table[letter] for letter in piece).decode("utf-8", "backslashreplace")
        return piece
    if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
        return bytes([int(piece[3:5], 16)]).decode("utf-8", "backslashreplace")
    return piece.replace(SPACE, " ")


def tokenizer_digest(tokenizer: Any) -> str:
    """sha256, in hex, of everything that decides how a tokenizer cuts text."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        content: Any = sorted(tokenizer.get_vocab().items())
    else:
        content = json.loads(backend.to_str())
        # These two are left over from the last call, not part of the tokenizer.
        content.pop("truncation", None)
        content.pop("padding", None)
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _is_byte_level(tokenizer: Any) -> bool:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return hasattr(tokenizer, "byte_decoder")
    parts = json.loads(backend.to_str())
    return '"ByteLevel"' in json.dumps([parts.get("decoder"), parts.get("pre_tokenizer")])


@cache
def _byte_of_letter() -> dict[str, int]:
    """Byte-level BPE writes each byte as a printable letter: itself where it is one, else the next letter from 256 on
    (Radford et al. 2019, GPT-2's encoder)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    letters = {chr(b): b for b in printable}
    others = [b for b in range(256) if b not in set(printable)]
    return letters | {chr(256 + n): b for n, b in enumerate(others)}
