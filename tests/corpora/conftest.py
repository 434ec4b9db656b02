"""A byte-level tokenizer and a tiny model that uses it."""

from collections.abc import Callable

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from sparse_rep.hosting.huggingface import HuggingFaceModel
from sparse_rep.hosting.model import ModelOrigin

WORDS = ["the quick brown fox jumps over the lazy dog", "def add(a, b): return a + b", "naïve café"]


def make_tokenizer(bos: bool = False) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=["<s>", "</s>"]
    )
    backend.train_from_iterator(WORDS, trainer)
    if bos:
        backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="</s>")


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer()


@pytest.fixture(scope="session")
def tiny_model() -> Callable[[bool], HuggingFaceModel]:
    def make(bos: bool) -> HuggingFaceModel:
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=300,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=64,
        )
        return HuggingFaceModel(LlamaForCausalLM(config), make_tokenizer(bos), ModelOrigin("tiny", "0" * 12))

    return make
