"""Tiny random mixtures of every family that routing knows, saved as directories that `load_model` reads."""

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

VOCAB = 300
SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
LATENT = {
    **SHAPE,
    "num_key_value_heads": 4,
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 12,
    "moe_intermediate_size": 24,
    "n_routed_experts": 16,
    "num_experts_per_tok": 3,
    "n_shared_experts": 2,
    "n_group": 4,
    "topk_group": 2,
    "first_k_dense_replace": 1,
}
MIXTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "mixtral": ("Mixtral", {**SHAPE, "num_local_experts": 8, "num_experts_per_tok": 2}),
    "olmoe": ("Olmoe", {**SHAPE, "num_experts": 8, "num_experts_per_tok": 3}),
    "qwen2_moe": (
        "Qwen2Moe",
        {
            **SHAPE,
            "num_experts": 8,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 24,
            "shared_expert_intermediate_size": 24,
            "mlp_only_layers": [1],
        },
    ),
    "qwen3_moe": (
        "Qwen3Moe",
        {
            **SHAPE,
            "num_experts": 8,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 24,
            "head_dim": 8,
            "norm_topk_prob": True,
            "decoder_sparse_step": 2,
        },
    ),
    "gpt_oss": ("GptOss", {**SHAPE, "num_local_experts": 8, "num_experts_per_tok": 2, "head_dim": 8}),
    "granitemoe": (
        "GraniteMoe",
        {**SHAPE, "num_local_experts": 8, "num_experts_per_tok": 3, "residual_multiplier": 0.5, "logits_scaling": 2.0},
    ),
    "phimoe": ("Phimoe", {**SHAPE, "num_local_experts": 8, "num_experts_per_tok": 2}),
    "deepseek_v2": ("DeepseekV2", {**LATENT, "topk_method": "group_limited_greedy", "routed_scaling_factor": 1.5}),
    "deepseek_v3": ("DeepseekV3", {**LATENT, "routed_scaling_factor": 2.5, "norm_topk_prob": True}),
    "llama4_text": (
        "Llama4Text",
        {
            **SHAPE,
            "head_dim": 8,
            "num_local_experts": 8,
            "num_experts_per_tok": 2,
            "intermediate_size_mlp": 48,
            "interleave_moe_layer_step": 2,
        },
    ),
}
UNKNOWN: dict[str, tuple[str, dict[str, Any]]] = {
    "flex_olmo": ("FlexOlmo", {**SHAPE, "pad_token_id": 1, "num_experts": 8, "num_experts_per_tok": 3}),
    "ernie4_5_moe": (
        "Ernie4_5_Moe",
        {
            **SHAPE,
            "moe_num_experts": 8,
            "moe_k": 2,
            "moe_intermediate_size": 24,
            "moe_layer_start_index": 1,
            "head_dim": 8,
        },
    ),
}
"""Mixtures that routing has no rule for."""
SPARSE_LAYERS = {
    "qwen2_moe": [0, 2],
    "qwen3_moe": [1],
    "deepseek_v2": [1, 2],
    "deepseek_v3": [1, 2],
    "llama4_text": [1],
    "ernie4_5_moe": [1, 2],
}
"""Layers with a router, where not all three have one."""


def tokenizer() -> transformers.PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    words = ["the quick brown fox jumps over the lazy dog", "def fox(self): return self.quick"]
    backend.train_from_iterator(words, trainers.BpeTrainer(vocab_size=VOCAB, initial_alphabet=alphabet))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend)


def save_mixture(folder: Path, family: str, **changes: Any) -> Path:
    """A model of a family with every parameter random, corrections of the load too."""
    name, settings = {**MIXTURES, **UNKNOWN}[family]
    config = getattr(transformers, f"{name}Config")(**{**settings, **changes}, vocab_size=VOCAB)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
        for buffer_name, buffer in model.named_buffers():
            if buffer_name.endswith("e_score_correction_bias"):
                buffer.copy_(0.2 * torch.randn_like(buffer))
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder
