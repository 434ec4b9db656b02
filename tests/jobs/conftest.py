"""A tiny random Llama and two domains of real text, small enough to train, extract and kill in a second."""

import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from sparse_rep.config import ExtractConfig, TrainConfig
from sparse_rep.jobs.extract import extract
from sparse_rep.jobs.training import train_dictionary
from sparse_rep.progress import Reporter

# Children started by multiprocessing take this path over, and import what they run from it.
sys.path.append(str(Path(__file__).parent))

HOOK = "blocks.1.hook_resid_post"


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model (model/) and text (prose/, code/)."""
    root = tmp_path_factory.mktemp("workshop")
    for domain, module in (("prose", "this"), ("code", "textwrap")):
        (root / domain).mkdir()
        source = Path(sysconfig.get_path("stdlib"), f"{module}.py").read_text()
        for part in range(6):
            (root / domain / f"{part}.txt").write_text(source[part * 130 : part * 130 + 700])
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    texts = [p.read_text() for p in sorted(root.rglob("*.txt"))]
    backend.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet))
    transformers.PreTrainedTokenizerFast(tokenizer_object=backend).save_pretrained(root / "model")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=48, vocab_size=400
    )
    transformers.LlamaForCausalLM(config).save_pretrained(root / "model")
    return root


@pytest.fixture
def train_config(workshop: Path, tmp_path: Path) -> Callable[..., TrainConfig]:
    def make(**changes: Any) -> TrainConfig:
        settings = {
            "name": "tiny",
            "model": {"name": str(workshop / "model"), "device": "cpu"},
            "hook": HOOK,
            "text": {"sources": [str(workshop / "prose"), str(workshop / "code")], "context": 24, "heldout_share": 0.3},
            "dictionary": {"n_latents": 64, "k": 4, "dead_after_tokens": 2000},
            "n_tokens": 6400,
            "batch_tokens": 64,
            "buffer_tokens": 512,
            "log_every": 25,
            "lr": 5e-3,
            "store": str(tmp_path / "store"),
        }
        return TrainConfig.checked({**settings, **changes})

    return make


@pytest.fixture
def extract_config(train_config: Callable[..., TrainConfig]) -> Callable[..., ExtractConfig]:
    def make(*dictionaries: str, **changes: Any) -> ExtractConfig:
        shared = train_config()
        settings = {
            "name": "run",
            "dictionaries": dictionaries,
            "model": shared.model,
            "text": shared.text,
            "shard_tokens": 300,
            "batch_tokens": 128,
            "activations": "sample:50",
            "store": shared.store,
        }
        return ExtractConfig.checked({**settings, **changes})

    return make


@pytest.fixture
def quiet() -> Reporter:
    return Reporter(silent=True)


@pytest.fixture
def trained(train_config: Callable[..., TrainConfig], quiet: Reporter) -> dict[str, Any]:
    return train_dictionary(train_config(), quiet)


@pytest.fixture
def extracted(trained: dict[str, Any], extract_config: Callable[..., ExtractConfig], quiet: Reporter) -> dict[str, Any]:
    return extract(extract_config(trained["dictionary_id"]), quiet)
