"""A model we can look inside: activations by TransformerLens name, and edits at the same places."""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from sparse_rep.errors import ConfigError


@dataclass(frozen=True)
class ModelOrigin:
    """Where a model came from; goes into every run that used it."""

    name: str
    """What the user typed after --model: a hub id, a directory, a *.gguf file, pip:NAME or pkg:NAME."""
    revision: str
    """Commit of a hub model; a digest of the weight files of a local one."""
    note: str = ""
    """What a reader must know, e.g. "Q4_1 GGUF (4-bit), dequantised to float32"."""


class HostedModel(ABC):
    """A causal language model with named hooks. Made by `load_model`.

    Hook names are TransformerLens': `hook_embed` and, for each layer L, `blocks.L.hook_resid_pre`, `hook_resid_mid` (absent
    where attention and MLP run in parallel), `hook_resid_post`, `hook_attn_out`, `hook_mlp_out` and `attn.hook_z`. Where a
    family normalises what a sublayer wrote (Gemma 2 and 3, OLMo 2), `hook_attn_out` and `hook_mlp_out` are what is added
    to the residual stream, after that norm. `attn.hook_z` is flattened: (b, t, heads * d_head).

    Padding is on the right, where a causal model cannot see it: a padded row gives what the row alone gives.
    Parameters take no gradients.
    """

    model: Any
    """The Hugging Face model underneath, in evaluation mode."""
    tokenizer: Any
    origin: ModelOrigin
    backend: str
    """Which implementation of the hooks this is, by its name in ModelConfig."""

    def __init__(self, model: Any, tokenizer: Any, origin: ModelOrigin) -> None:
        self.model = model.eval().requires_grad_(False)
        self.tokenizer, self.origin = tokenizer, origin

    @abstractmethod
    def hooks(self) -> list[str]:
        """Every hook name this model offers, in the order of the forward pass."""

    @abstractmethod
    def capture(
        self, input_ids: Int[Tensor, "b t"], attention_mask: Int[Tensor, "b t"] | None, hooks: Sequence[str]
    ) -> dict[str, Float[Tensor, "b t d"]]:
        """Activations at each hook, float32 on the model's device.

        The forward pass stops once the deepest hook has been seen. Values at padding are undefined. Inside an `edit` the
        edited activations are captured.

        Raises:
            ConfigError: a hook the model lacks, or padding on the left.
        """

    @abstractmethod
    def edit(self, hook: str, change: Callable[[Tensor], Tensor]) -> AbstractContextManager[None]:
        """Replace the activation x (b, t, d) at a hook by `change(x)` in every forward pass while the context is open.

        Whatever comes after the hook sees the new value; a change at `hook_resid_mid` changes the residual stream itself.
        Edits nest: a later one receives what an earlier one returned. Afterwards the model is bit for bit what it was.
        """

    @abstractmethod
    def logits(
        self, input_ids: Int[Tensor, "b t"], attention_mask: Int[Tensor, "b t"] | None = None
    ) -> Float[Tensor, "b t vocab"]:
        """Logits of the whole model, in its own precision."""

    def loss(
        self, input_ids: Int[Tensor, "b t"], attention_mask: Int[Tensor, "b t"] | None = None
    ) -> Float[Tensor, "b t1"]:
        """Next-token cross entropy (b, t-1) in nats, float32; 0 where the target is padding."""
        logits = self.logits(input_ids, attention_mask)
        targets = input_ids[:, 1:].to(logits.device)
        # A row at a time: a float32 copy of all logits is the largest tensor of the whole pass.
        rows = [F.cross_entropy(row[:-1].float(), t, reduction="none") for row, t in zip(logits, targets, strict=True)]
        loss = torch.stack(rows)
        return loss if attention_mask is None else loss * attention_mask[:, 1:].to(loss)

    def width(self, hook: str) -> int:
        """d of the activation at a hook. Raises ConfigError with the nearest names for a hook the model lacks."""
        self.check(hook)
        return self.n_heads * self.d_head if hook.endswith("hook_z") else self.d_model

    def check(self, *hooks: str) -> None:
        """Raises ConfigError, naming the nearest hooks and the number of layers, for a hook the model lacks."""
        known = self.hooks()
        for hook in hooks:
            if hook not in known:
                near = ", ".join(difflib.get_close_matches(hook, known, n=3, cutoff=0))
                raise ConfigError(
                    f"{self.origin.name} has no hook {hook!r}; the nearest are {near} "
                    f"(it has {self.n_layers} layers, blocks.0 to blocks.{self.n_layers - 1})"
                )

    @abstractmethod
    def unembed(self) -> tuple[Float[Tensor, "vocab d"], Float[Tensor, " d"] | None]:
        """`W_U` and the final norm's scale, or None where it has none: what a direction writes to the logits, directly.

        For norms that multiply by 1 + w (Gemma) the scale is 1 + w.
        """

    @property
    def device(self) -> str:
        return str(self.model.device)

    @property
    def d_model(self) -> int:
        return self._config.hidden_size

    @property
    def n_layers(self) -> int:
        return self._config.num_hidden_layers

    @property
    def n_heads(self) -> int:
        return self._config.num_attention_heads

    @property
    def d_head(self) -> int:
        return getattr(self._config, "head_dim", None) or self.d_model // self.n_heads

    @property
    def vocab_size(self) -> int:
        """Rows of the unembedding, which may be padded beyond the tokenizer's vocabulary."""
        return self._config.vocab_size

    @property
    def context_length(self) -> int:
        """Positions the model was made for."""
        return self._config.max_position_embeddings

    @cached_property
    def bos_id(self) -> int | None:
        """The token that this tokenizer itself puts before a text, or None: SmolLM2's puts none, Llama's and Gemma's do."""
        plain = self.tokenizer("a", add_special_tokens=False)["input_ids"]
        dressed = self.tokenizer("a")["input_ids"]
        if dressed[0] == self.tokenizer.bos_token_id and dressed[1 : 1 + len(plain)] == plain:
            return dressed[0]
        return None

    @property
    def _config(self) -> Any:
        return self.model.config.get_text_config()
