"""Routed-expert ids as inference servers return them: three formats, one form.

vLLM (`--enable-return-routed-experts`): a response holds `prompt_routed_experts` (prompt tokens, layers, k) and each of its
`choices` `routed_experts` (generated tokens, layers, k), as lists, as {"data": base64 of int16, "shape": [...]}, or as base64
of an .npy file; later versions give one array over prompt and generated tokens in the choice. Token ids come with
`return_token_ids`. SGLang, a request (`--enable-return-routed-experts`): base64 of int32 over all tokens but the last, in
`meta_info` or `sglext`. SGLang's recorder (`--expert-distribution-recorder-mode per_token`): a torch file of forward passes.
The last token of a request was never read by the model and has no experts.

Servers count layers with a router only (the recorder counts all); which they are is the model's to say.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparse_rep.errors import DataError
from sparse_rep.routing.families import Router

NONE = -1
FILLER = 255
"""What SGLang's recorder writes where a fused shared expert took a slot."""


@dataclass(frozen=True)
class Routed:
    """One request: its tokens and the experts that each was sent to."""

    server: str
    token_ids: NDArray[np.int64]  # (n)
    experts: NDArray[np.int32]  # (n, l, k), -1 for none
    text: str | None = None
    """What the server says that the generated tokens read."""
    n_generated: int = 0


def read_routed(path: Path, routers: Sequence[Router]) -> Iterator[Routed]:
    """Requests of a file: JSON, JSON lines, or a torch file of SGLang's recorder (*.pt).

    Raises:
        DataError: not one of the formats, ids that are not there, or shapes that do not fit the model's routers.
    """
    if not path.is_file():
        raise DataError(f"there is no file {path}")
    found = _recorded(path, routers) if path.suffix == ".pt" else _responses(path, routers)
    for number, routed in enumerate(found):
        yield _checked(routed, routers, f"{path}, request {number + 1}")


def _checked(routed: Routed, routers: Sequence[Router], where: str) -> Routed:
    n, layers, k = routed.experts.shape
    if n not in (len(routed.token_ids), len(routed.token_ids) - 1):
        raise DataError(f"{where}: experts of {n} tokens for {len(routed.token_ids)} token ids")
    largest = int(routed.experts.max(initial=NONE))
    if largest >= routers[0].n_experts:
        raise DataError(f"{where}: expert {largest}, but routers of this model have {routers[0].n_experts} experts")
    if n < len(routed.token_ids):
        last = np.full((1, layers, k), NONE, np.int32)
        return Routed(
            routed.server, routed.token_ids, np.concatenate([routed.experts, last]), routed.text, routed.n_generated
        )
    return routed


def _responses(path: Path, routers: Sequence[Router]) -> Iterator[Routed]:
    text = path.read_text(encoding="utf-8")
    try:
        whole = json.loads(text)
        records = whole if isinstance(whole, list) else [whole]
    except ValueError:
        records = []
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip():
                try:
                    records.append(json.loads(line))
                except ValueError as error:
                    raise DataError(f"{path}, line {number}: not JSON ({error})") from error
    for number, record in enumerate(records, 1):
        where = f"{path}, request {number}"
        if not isinstance(record, dict):
            raise DataError(f"{where}: a response of vLLM or SGLang is a JSON object")
        if _sglang_ids(record) is not None:
            yield _from_sglang(record, routers, where)
        elif "choices" in record:
            yield from _from_vllm(record, routers, where)
        else:
            raise DataError(
                f"{where}: holds no routed experts; serve with --enable-return-routed-experts and keep whole responses"
            )


def _from_vllm(record: dict[str, Any], routers: Sequence[Router], where: str) -> Iterator[Routed]:
    prompt = _token_ids(record.get("prompt_token_ids"), where)
    for choice in record["choices"]:
        generated = _token_ids(choice.get("token_ids"), where)
        given = (record.get("prompt_routed_experts"), choice.get("routed_experts"))
        parts = [_array(ids, routers, where) for ids in given if ids]
        if not parts:
            raise DataError(f"{where}: holds no routed experts; serve with --enable-return-routed-experts")
        text = choice.get("text") or (choice.get("message") or {}).get("content")
        yield Routed("vllm", np.concatenate([prompt, generated]), np.concatenate(parts), text, len(generated))


def _sglang_ids(record: dict[str, Any]) -> Any:
    for holder in ("meta_info", "sglext"):
        ids = (record.get(holder) or {}).get("routed_experts")
        if ids is not None:
            return ids
    return None


def _from_sglang(record: dict[str, Any], routers: Sequence[Router], where: str) -> Routed:
    meta = record.get("meta_info") or {}
    tokens = []
    for name in ("input", "output"):
        ids = record.get(f"{name}_ids")
        if ids is None and meta.get(f"{name}_token_logprobs") is not None:
            ids = [token for _, token, *_ in meta[f"{name}_token_logprobs"]]
        tokens.append(_token_ids(ids, where))
    experts = _array(_sglang_ids(record), routers, where)
    return Routed("sglang", np.concatenate(tokens), experts, record.get("text"), len(tokens[1]))


def _recorded(path: Path, routers: Sequence[Router]) -> Iterator[Routed]:
    """Forward passes in which prompts were read whole; passes that generate one token a request are of many texts."""
    import torch

    try:
        data = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a pickle may fail in any way
        raise DataError(f"{path} cannot be read as a torch file: {str(error).splitlines()[0]}") from error
    records = data.get("records") if isinstance(data, dict) else None
    if not records or "topk_ids_of_layer" not in records[0]:
        raise DataError(f"{path} is no recording of tokens: record with --expert-distribution-recorder-mode per_token")
    layers = [router.layer for router in routers]
    logical = data.get("last_physical_to_logical_map")
    for record in records:
        ids = record["topk_ids_of_layer"].numpy()
        if ids.shape[0] <= max(layers):
            raise DataError(f"{path}: ids for {ids.shape[0]} layers, but the model has a router in layer {max(layers)}")
        ids = ids[layers].astype(np.int32)[..., : routers[0].k]
        unused = (ids < 0) | ((ids == FILLER) & (routers[0].n_experts <= FILLER))
        if logical is not None:  # ids name copies of experts where some are held twice
            table = np.asarray(logical)[layers]
            ids = np.take_along_axis(table[:, None], np.where(unused, 0, ids), -1).astype(np.int32)
        experts = np.where(unused, NONE, ids).transpose(1, 0, 2)
        tokens = np.asarray(record["input_ids"], dtype=np.int64)
        lengths = record.get("extend_seq_lens")
        if lengths is None or not len(lengths):
            continue
        ends = np.cumsum(np.asarray(lengths))
        for lo, hi in zip((0, *ends[:-1].tolist()), ends.tolist(), strict=True):
            yield Routed("sglang-recorder", tokens[lo:hi], experts[lo:hi])


def _token_ids(ids: Any, where: str) -> NDArray[np.int64]:
    if ids is None:
        raise DataError(
            f"{where}: says which experts but not which tokens; ask for token ids too (vLLM: return_token_ids, SGLang: "
            "return_logprob with logprob_start_len 0, or add input_ids and output_ids)"
        )
    return np.asarray(ids, dtype=np.int64)


def _array(ids: Any, routers: Sequence[Router], where: str) -> NDArray[np.int32]:
    """(n, l, k) from nested lists, {"data", "shape"}, or base64 of an .npy file or of int32."""
    layers, k = len(routers), routers[0].k
    try:
        array = _decoded(ids, layers, k)
    except (ValueError, KeyError, TypeError, binascii.Error) as error:
        raise DataError(f"{where}: cannot read its routed experts: {error}") from error
    if array.ndim != 3 or array.shape[1:] != (layers, k):
        raise DataError(
            f"{where}: experts of shape {array.shape} (tokens, layers, choices), but the model has {layers} routers that "
            f"choose {k}; give the --model that was served"
        )
    return array


def _decoded(ids: Any, layers: int, k: int) -> NDArray[np.int32]:
    if isinstance(ids, dict):
        flat = np.frombuffer(base64.b64decode(ids["data"]), np.dtype(ids.get("dtype", "int16")))
        return flat.reshape(ids["shape"]).astype(np.int32)
    if isinstance(ids, str):
        raw = base64.b64decode(ids)
        if raw.startswith(b"\x93NUMPY"):
            return np.load(io.BytesIO(raw), allow_pickle=False).astype(np.int32)
        return np.frombuffer(raw, np.int32).reshape(-1, layers, k)
    return np.asarray(ids, dtype=np.int32)
