"""The recipe of the toy mixture: what `sparse-rep train-toy moe` does where nothing else is said."""

from __future__ import annotations

from pydantic import Field

from sparse_rep.config import Config, TextConfig


class ToyTextConfig(TextConfig):
    """Which text: the sources that are on every machine, each cut so that no single file takes much of it."""

    sources: tuple[str, ...] = ("stdlib", "pip-readmes", "pydoc-topics", "c-headers")
    """As for every command that reads text."""
    n_tokens: int | None = Field(default=8_000_000, ge=1)
    """At most this many tokens, shared by the sources as far as each reaches."""
    document_tokens: int | None = Field(default=16_384, ge=2)
    """Tokens kept from the start of each document."""


class ToyMoeConfig(Config):
    """A small OLMoE (Muennighoff et al. 2024, arXiv 2409.02060): every MLP is a mixture of small ones."""

    text: ToyTextConfig = ToyTextConfig()
    """What it reads; `context` is also the length it is trained at. The share held out is what it is scored on."""
    vocab_size: int = Field(default=4096, ge=258)
    """Entries of the byte-level BPE vocabulary, which is learned from the training documents."""
    tokenizer_characters: int = Field(default=2_000_000, ge=1)
    """Characters of each domain that the vocabulary is learned from, so that the largest domain does not take all of it."""
    d_model: int = Field(default=128, ge=1)
    """Width of the residual stream."""
    n_layers: int = Field(default=6, ge=1)
    """Blocks, each with a router."""
    n_heads: int = Field(default=4, ge=1)
    """Attention heads a block."""
    n_experts: int = Field(default=8, ge=2)
    """Experts a block."""
    experts_per_token: int = Field(default=2, ge=1)
    """Experts a token is sent to."""
    d_expert: int = Field(default=160, ge=1)
    """Hidden width of an expert."""
    n_steps: int = Field(default=3000, ge=1)
    """Optimiser steps."""
    batch_windows: int = Field(default=64, ge=1)
    """Windows of `text.context` tokens a step, each from one domain."""
    domain_power: float = Field(default=0.5, ge=0, le=1)
    """A domain of n tokens is drawn from in proportion to n to this power: 1 is by size, 0 is equally."""
    lr: float = Field(default=4e-3, gt=0)
    """Peak learning rate of AdamW."""
    warmup_share: float = Field(default=0.04, ge=0, le=1)
    """Share of the steps in which the learning rate rises from 0; afterwards it falls to 0 along a cosine."""
    weight_decay: float = Field(default=0.1, ge=0)
    """Of weight matrices; embeddings and norms have none."""
    balance: float = Field(default=0.01, ge=0)
    """Weight of the load-balance loss, the mean over layers (OLMoE's 0.01)."""
    z: float = Field(default=0.001, ge=0)
    """Weight of the router's z loss, the mean over layers (OLMoE's 0.001)."""
    eval_every: int = Field(default=500, ge=1)
    """Steps between points of the held-out loss curve."""
    eval_tokens: int = Field(default=40_000, ge=1)
    """Held-out tokens of each domain behind a point of that curve; the final score takes all of them."""
    seed: int = 0
    """Of the initial weights and of the windows drawn."""
