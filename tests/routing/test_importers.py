"""What servers return becomes the same rows as what we capture; what does not fit is named.

Neither server runs here: responses are written as their documentation and code lay them out, from routing that we captured.
"""

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mixtures import save_mixture

from sparse_rep.config import ModelConfig, RoutingConfig
from sparse_rep.errors import DataError
from sparse_rep.hosting.load import load_model
from sparse_rep.jobs.routing_import import import_routing
from sparse_rep.progress import Reporter
from sparse_rep.routing.capture import routing_activations
from sparse_rep.store import Store

LENGTHS = (9, 14)
PROMPT = 5


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[list[int], np.ndarray]]]:
    """A model with a dense first layer, and for each request its tokens and experts (n, l, k)."""
    folder = save_mixture(tmp_path_factory.mktemp("served") / "model", "deepseek_v3")
    model = load_model(ModelConfig(name=str(folder), device="cpu"))
    text = "the quick brown fox jumps over the lazy dog def fox(self): return self.quick " * 2
    ids = model.tokenizer(text)["input_ids"]
    requests = []
    for start, length in enumerate(LENGTHS):
        tokens = ids[start : start + length]
        found = routing_activations(model, torch.tensor([tokens]))
        experts = np.stack([found[f"blocks.{layer}.mlp.hook_expert_indices"][0].numpy() for layer in (1, 2)], 1)
        requests.append((tokens, experts.astype(np.int32)))
    return folder, requests


def b64(array: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


def npy(array: np.ndarray) -> str:
    out = io.BytesIO()
    np.save(out, array)
    return base64.b64encode(out.getvalue()).decode()


def vllm(tokens: list[int], experts: np.ndarray, form: str) -> dict[str, Any]:
    prompt, generated = experts[:PROMPT], experts[PROMPT:-1]
    if form == "lists":
        parts: tuple[Any, Any] = (prompt.tolist(), generated.tolist())
    elif form == "buffers":
        small = [p.astype(np.int16) for p in (prompt, generated)]
        parts = tuple({"data": b64(p), "shape": list(p.shape)} for p in small)  # pyright: ignore
    else:
        parts = (None, npy(experts[:-1].astype(np.uint8)))
    choice = {"token_ids": tokens[PROMPT:], "routed_experts": parts[1]}
    return {"prompt_token_ids": tokens[:PROMPT], "prompt_routed_experts": parts[0], "choices": [choice]}


def sglang(tokens: list[int], experts: np.ndarray, form: str) -> dict[str, Any]:
    ids = b64(experts[:-1].astype(np.int32))
    if form == "openai":
        return {"sglext": {"routed_experts": ids}, "input_ids": tokens[:PROMPT], "output_ids": tokens[PROMPT:]}
    logprobs = [[-0.5, token, None] for token in tokens]
    return {
        "meta_info": {
            "routed_experts": ids,
            "input_token_logprobs": logprobs[:PROMPT],
            "output_token_logprobs": logprobs[PROMPT:],
        }
    }


def recording(path: Path, requests: list[tuple[list[int], np.ndarray]], copies: bool = False) -> Path:
    """As SGLang's recorder writes: all layers, 8 slots a token, prompts of one pass side by side."""
    tokens = [t for ids, _ in requests for t in ids]
    layers = np.zeros((3, len(tokens), 8), np.int32)
    layers[1:, :, :3] = np.concatenate([experts for _, experts in requests]).transpose(1, 0, 2)
    physical = torch.arange(16).repeat(3, 1)
    if copies:  # expert e is held at place 15 - e
        layers[1:, :, :3] = 15 - layers[1:, :, :3]
        physical = physical.flip(-1)
    record = {
        "input_ids": tokens,
        "extend_seq_lens": [len(ids) for ids, _ in requests],
        "topk_ids_of_layer": torch.from_numpy(layers),
        "forward_mode": 1,
    }
    torch.save({"records": [record], "last_physical_to_logical_map": physical}, path)
    return path


def written(config: RoutingConfig) -> dict[str, np.ndarray]:
    run = import_routing(config, Reporter(silent=True))["run_id"]
    found = Store(config.store).query("SELECT * FROM routes WHERE run_id = $r ORDER BY layer, tok, rank", r=run)
    return {name: np.array(found[name].to_pylist()) for name in ("layer", "tok", "rank", "expert", "weight")}


def settings(model: Path, routes: Path, store: Path) -> RoutingConfig:
    return RoutingConfig.checked({"model": {"name": str(model)}, "routes": str(routes), "store": str(store)})


FORMS: dict[str, Callable[[Path, Any], Path]] = {}
for make, forms in ((vllm, ("lists", "buffers", "npy")), (sglang, ("openai", "native"))):
    for form in forms:

        def write(path: Path, requests: Any, make: Any = make, form: str = form) -> Path:
            target = path / "routes.jsonl"
            target.write_text("\n".join(json.dumps(make(*request, form)) for request in requests))
            return target

        FORMS[f"{make.__name__}-{form}"] = write
FORMS["recorder"] = lambda path, requests: recording(path / "routes.pt", requests)
FORMS["recorder-copies"] = lambda path, requests: recording(path / "routes.pt", requests, copies=True)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_rows_that_were_captured(form: str, served: Any, tmp_path: Path) -> None:
    model, requests = served
    found = written(settings(model, FORMS[form](tmp_path, requests), tmp_path / "store"))
    expected = []
    for at, layer in enumerate((1, 2)):
        first = 0
        for tokens, experts in requests:
            read = len(tokens) if form.startswith("recorder") else len(tokens) - 1  # the last one was never read
            expected += [(layer, first + t, r + 1, experts[t, at, r]) for t in range(read) for r in range(3)]
            first += len(tokens)
    rows = list(zip(*(found[name].tolist() for name in ("layer", "tok", "rank", "expert")), strict=True))
    assert rows == expected
    assert all(weight is None for weight in found["weight"].tolist())


def test_routers_and_loads_say_where_they_come_from(served: Any, tmp_path: Path) -> None:
    model, requests = served
    config = settings(model, FORMS["vllm-lists"](tmp_path, requests), tmp_path / "store")
    run = import_routing(config, Reporter(silent=True))["run_id"]
    store = Store(config.store)
    routers = store.query(
        "SELECT layer, source, n_tokens, entropy FROM routers WHERE run_id = $r ORDER BY layer", r=run
    )
    assert routers.to_pylist() == [
        {"layer": layer, "source": "vllm", "n_tokens": sum(LENGTHS) - 2, "entropy": None} for layer in (1, 2)
    ]
    load = store.query(
        "SELECT layer, sum(load) AS s, count(importance) AS known FROM experts WHERE NOT shared GROUP BY layer"
    )
    assert all(row["s"] == pytest.approx(1) and row["known"] == 0 for row in load.to_pylist())
    assert import_routing(config, Reporter(silent=True))["run_id"] == run


def test_another_tokenizer_is_noticed_by_ids_and_by_what_they_read(served: Any, tmp_path: Path) -> None:
    model, requests = served
    response = vllm(*requests[0], "lists")
    response["choices"][0]["token_ids"][-1] = 5000
    (tmp_path / "a.json").write_text(json.dumps(response))
    with pytest.raises(DataError, match=r"token 5000, but the tokenizer .* has 300: the file is of another tokenizer"):
        written(settings(model, tmp_path / "a.json", tmp_path / "store"))
    response = vllm(*requests[0], "lists")
    response["choices"][0]["text"] = "Bonjour tout le monde"
    (tmp_path / "b.json").write_text(json.dumps(response))
    with pytest.raises(DataError, match=r"but the server says 'Bonjour.*another tokenizer"):
        written(settings(model, tmp_path / "b.json", tmp_path / "store"))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda r: r | {"prompt_token_ids": None}, "ask for token ids too"),
        (lambda r: r | {"choices": [], "prompt_routed_experts": None} and {"id": 1}, "holds no routed experts"),
        (
            lambda r: r | {"prompt_routed_experts": [[[0, 1, 2]] * 5] * 5},
            r"experts of shape \(5, 5, 3\)",
        ),
        (
            lambda r: r | {"prompt_routed_experts": [[[0, 1, 77]] * 2] * PROMPT},
            "expert 77, but routers of this model have 16",
        ),
        (lambda r: r | {"prompt_routed_experts": [[[0, 1, 2]] * 2] * 2}, "experts of 5 tokens for 9 token ids"),
    ],
)
def test_what_does_not_fit_is_named(change: Any, named: str, served: Any, tmp_path: Path) -> None:
    model, requests = served
    (tmp_path / "routes.json").write_text(json.dumps(change(vllm(*requests[0], "lists"))))
    with pytest.raises(DataError, match=named):
        written(settings(model, tmp_path / "routes.json", tmp_path / "store"))
    assert not Store(tmp_path / "store").run_ids()
