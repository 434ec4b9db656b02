"""The toy mixture as a Hugging Face model, and what its routers say in a forward pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from sparse_rep.toys.config import ToyMoeConfig
from sparse_rep.toys.text import END_ID


def new_mixture(config: ToyMoeConfig, vocab_size: int) -> Any:
    """An untrained `OlmoeForCausalLM` of the recipe's shape, input and output embeddings tied; seeded by `config.seed`."""
    from transformers import OlmoeConfig, OlmoeForCausalLM

    shape = OlmoeConfig(
        vocab_size=vocab_size,
        hidden_size=config.d_model,
        intermediate_size=config.d_expert,
        num_hidden_layers=config.n_layers,
        num_attention_heads=config.n_heads,
        num_experts=config.n_experts,
        num_experts_per_tok=config.experts_per_token,
        max_position_embeddings=config.text.context,
        tie_word_embeddings=True,
        router_aux_loss_coef=config.balance,
        bos_token_id=None,
        eos_token_id=END_ID,
        pad_token_id=None,
    )
    torch.manual_seed(config.seed)
    return OlmoeForCausalLM(shape)


@contextmanager
def routers_heard(model: Any) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """The list receives (logits (n, E), chosen experts (n, k)) of each layer in every forward pass while the context is open."""
    heard: list[tuple[Tensor, Tensor]] = []

    def keep(_module: Any, _args: Any, output: tuple[Tensor, Tensor, Tensor]) -> None:
        logits, _, chosen = output
        heard.append((logits, chosen))

    handles = [layer.mlp.gate.register_forward_hook(keep) for layer in model.model.layers]
    try:
        yield heard
    finally:
        for handle in handles:
            handle.remove()
