"""Where each family of Hugging Face models keeps what TransformerLens' hook names mean.

One row a family: module paths, those inside a block relative to it. A hook is the input or the output of a module; inputs
are written `module<` and outputs `module>`, and the block itself has the empty path.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Place:
    """A tensor in the forward pass: the first input or the first output of a module."""

    module: str
    is_input: bool


@dataclass(frozen=True)
class Family:
    """Layout of one family of models."""

    embed: str
    layers: str
    final_norm: str
    z: str | None
    """Input of attention's output projection; None where its heads have a width of their own (latent attention)."""
    attn_out: str | None
    """None where what is added to the stream is no module's output: Granite multiplies it outside."""
    mlp_out: str | None
    resid_mid: str | None
    """Where the second sublayer reads the residual stream; None where both sublayers read the block's input."""
    parallel_if: str | None = None
    """Config field that says that both sublayers read the block's input, in families that have both forms."""
    norm_offset: float = 0.0
    """The final norm multiplies by this plus its weight."""

    def places(self, config: Any) -> dict[str, Place]:
        """Hook name -> place, in the order of the forward pass."""
        parallel = self.resid_mid is None or (self.parallel_if is not None and getattr(config, self.parallel_if))
        block = {
            "hook_resid_pre": "<",
            "attn.hook_z": self.z,
            "hook_attn_out": self.attn_out,
            "hook_resid_mid": None if parallel else self.resid_mid,
            "hook_mlp_out": self.mlp_out,
            "hook_resid_post": ">",
        }
        places = {"hook_embed": Place(self.embed, is_input=False)}
        for layer in range(config.num_hidden_layers):
            for name, path in block.items():
                if path is None:
                    continue
                module = ".".join(filter(None, (self.layers, str(layer), path[:-1])))
                places[f"blocks.{layer}.{name}"] = Place(module, is_input=path.endswith("<"))
        return places


_LLAMA = Family(
    embed="model.embed_tokens",
    layers="model.layers",
    final_norm="model.norm",
    z="self_attn.o_proj<",
    attn_out="self_attn>",
    mlp_out="mlp>",
    resid_mid="post_attention_layernorm<",
)
_GEMMA = replace(_LLAMA, norm_offset=1.0)
_GEMMA_POST_NORM = replace(
    _GEMMA,
    attn_out="post_attention_layernorm>",
    mlp_out="post_feedforward_layernorm>",
    resid_mid="pre_feedforward_layernorm<",
)
_GEMMA3 = replace(
    _GEMMA_POST_NORM,
    embed="model.language_model.embed_tokens",
    layers="model.language_model.layers",
    final_norm="model.language_model.norm",
)
_OLMO2 = replace(_LLAMA, attn_out="post_attention_layernorm>", mlp_out="post_feedforward_layernorm>", resid_mid="mlp<")
_DEEPSEEK = replace(_LLAMA, z=None)
_GRANITE = replace(_LLAMA, attn_out=None, mlp_out=None)
_LLAMA4 = replace(_LLAMA, mlp_out="feed_forward>")
_PHI = Family(
    embed="model.embed_tokens",
    layers="model.layers",
    final_norm="model.final_layernorm",
    z="self_attn.dense<",
    attn_out="self_attn>",
    mlp_out="mlp>",
    resid_mid=None,
)
_GPT2 = Family(
    embed="transformer.wte",
    layers="transformer.h",
    final_norm="transformer.ln_f",
    z="attn.c_proj<",
    attn_out="attn>",
    mlp_out="mlp>",
    resid_mid="ln_2<",
)
_GPT_NEOX = Family(
    embed="gpt_neox.embed_in",
    layers="gpt_neox.layers",
    final_norm="gpt_neox.final_layer_norm",
    z="attention.dense<",
    attn_out="attention>",
    mlp_out="mlp>",
    resid_mid="post_attention_layernorm<",
    parallel_if="use_parallel_residual",
)

_STREAM_ONLY = replace(_LLAMA, z=None, attn_out=None, mlp_out=None, resid_mid=None)

FAMILIES: dict[str, Family] = {
    "deepseek_v2": _DEEPSEEK,
    "deepseek_v3": _DEEPSEEK,
    "gemma": _GEMMA,
    "gemma2": _GEMMA_POST_NORM,
    "gemma3": _GEMMA3,
    "gemma3_text": _GEMMA_POST_NORM,
    "gpt2": _GPT2,
    "gpt_neox": _GPT_NEOX,
    "gpt_oss": _LLAMA,
    "granitemoe": _GRANITE,
    "llama": _LLAMA,
    "llama4_text": _LLAMA4,
    "mistral": _LLAMA,
    "mixtral": _LLAMA,
    "olmo": _LLAMA,
    "olmo2": _OLMO2,
    "olmoe": _LLAMA,
    "phi": _PHI,
    "phi3": _LLAMA,
    "phimoe": _LLAMA,
    "qwen2": _LLAMA,
    "qwen2_moe": _LLAMA,
    "qwen3": _LLAMA,
    "qwen3_moe": _LLAMA,
    "smollm3": _LLAMA,
}
"""By `model_type` of the Hugging Face config."""


def family_of(model: Any) -> Family | None:
    """The layout of a Hugging Face model, or None.

    Of a family that is not in the table but laid out as Llama is, only what goes into and comes out of each layer is known for
    certain to be the residual stream: it has those hooks and no others.
    """
    known = FAMILIES.get(model.config.model_type)
    if known is not None:
        return known
    modules = dict(model.named_modules())
    places = (_STREAM_ONLY.embed, _STREAM_ONLY.layers, _STREAM_ONLY.final_norm)
    return _STREAM_ONLY if all(place in modules for place in places) else None
