"""Tiny models with random weights, one of each family, saved as directories that `load_model` reads."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

TEXT = ["the quick brown fox jumps over the lazy dog", "pack my box with five dozen liquor jugs", "naïve café, 東京 🦊"]
SHAPE = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "max_position_embeddings": 64}
GROUPED = {**SHAPE, "intermediate_size": 48, "num_key_value_heads": 2}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
# Caps and windows are small enough to bite on random weights.
GEMMA = {**GROUPED, "head_dim": 16, "sliding_window": 6}
VISION = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "image_size": 28,
}
VOCAB = 320
CONFIGS = {
    "gemma": ("Gemma", {**GROUPED, "head_dim": 16}),
    "gemma2": ("Gemma2", {**GEMMA, "attn_logit_softcapping": 1.0, "final_logit_softcapping": 2.0}),
    "gemma3": (
        "Gemma3",
        {"text_config": {**GEMMA, "vocab_size": VOCAB}, "vision_config": VISION, "mm_tokens_per_image": 1},
    ),
    "gemma3_text": ("Gemma3Text", GEMMA),
    "gpt2": ("GPT2", {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64}),
    "gpt_neox": ("GPTNeoX", {**SHAPE, "intermediate_size": 48}),
    "gpt_neox-sequential": ("GPTNeoX", {**SHAPE, "intermediate_size": 48, "use_parallel_residual": False}),
    "gpt_oss": ("GptOss", {**GEMMA, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "llama": ("Llama", GROUPED),
    "mistral": ("Mistral", {**GROUPED, "sliding_window": 6}),
    "mixtral": ("Mixtral", {**GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "olmo": ("Olmo", GROUPED),
    "olmo2": ("Olmo2", GROUPED),
    "olmoe": ("Olmoe", {**GROUPED, "num_experts": 4, "num_experts_per_tok": 2}),
    "phi": ("Phi", {**SHAPE, "intermediate_size": 48}),
    "phi3": ("Phi3", GROUPED),
    "qwen2": ("Qwen2", GROUPED),
    "qwen2_moe": ("Qwen2Moe", {**GROUPED, **EXPERTS, "shared_expert_intermediate_size": 24}),
    "qwen3": ("Qwen3", {**GROUPED, "head_dim": 16}),
    "qwen3_moe": ("Qwen3Moe", {**GROUPED, **EXPERTS, "head_dim": 16}),
    "smollm3": ("SmolLM3", GROUPED),
}


def byte_level_tokenizer(bos: bool) -> transformers.PreTrainedTokenizerFast:
    """Byte-level BPE over a few words; with `bos` its own rule is to begin with <s>."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    specials = ["<s>", "</s>"]
    backend.train_from_iterator(
        TEXT, trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, special_tokens=specials)
    )
    if bos:
        backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )


def save_tiny(folder: Path, family: str, bos: bool = False) -> Path:
    """A model of a family with every parameter random, norms and biases too, and a tokenizer, as one directory."""
    tokenizer = byte_level_tokenizer(bos)
    name, settings = CONFIGS[family]
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(
        **settings, vocab_size=VOCAB, bos_token_id=0, eos_token_id=1, pad_token_id=1
    )
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """`tiny(family, bos=False)` -> directory of a saved model; each is made once."""
    made: dict[tuple[str, bool], str] = {}

    def make(family: str, bos: bool = False) -> str:
        if (family, bos) not in made:
            made[family, bos] = str(save_tiny(tmp_path_factory.mktemp(family), family, bos))
        return made[family, bos]

    return make


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.randint(2, 300, (2, 12), generator=torch.Generator().manual_seed(1))
