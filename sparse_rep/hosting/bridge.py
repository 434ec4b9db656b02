"""TransformerLens' bridge behind our interface: a second way to host, and the reference for what hook names mean."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, final

import torch
from torch import Tensor

from sparse_rep.hosting.forward import around_norm, check_padding
from sparse_rep.hosting.model import HostedModel, ModelOrigin
from sparse_rep.hosting.quiet import quiet_transformers

BLOCK_HOOKS = (
    "hook_resid_pre",
    "attn.hook_z",
    "hook_attn_out",
    "hook_resid_mid",
    "hook_mlp_out",
    "hook_resid_post",
)


@contextmanager
def without_installing() -> Iterator[None]:
    """Keep transformer-lens 3.9 from running `pip install torchvision`.

    It does so for multimodal models whose processor does not load, and pip then replaces torch by the build that the newest
    torchvision wants, under the running process. It carries on without the processor, which text does not need.
    """
    check_call = subprocess.check_call

    def refuse(command: Any, *args: Any, **kwargs: Any) -> int:
        if "install" in command:
            raise OSError(f"not run: {command}")
        return check_call(command, *args, **kwargs)

    subprocess.check_call = refuse
    try:
        yield
    finally:
        subprocess.check_call = check_call


@final
class BridgedModel(HostedModel):
    """A Hugging Face model inside `TransformerBridge` (transformer-lens 3.9), which knows more families than ours.

    The bridge computes attention in the open, n^2 for each head: slower and larger than `HuggingFaceModel`.
    """

    backend = "transformer-lens"

    def __init__(self, model: Any, tokenizer: Any, origin: ModelOrigin) -> None:
        from transformer_lens.model_bridge import TransformerBridge

        super().__init__(model, tokenizer, origin)
        model.config.architectures = [type(model).__name__]
        with quiet_transformers(), without_installing():
            # The bridge sets its tokenizer to prepend BOS whatever its own rule is, so it gets a copy to itself.
            own = type(tokenizer).from_pretrained(tokenizer.name_or_path)
            self.bridge = TransformerBridge.boot_transformers(
                tokenizer.name_or_path, hf_model=model, tokenizer=own, device=str(model.device), dtype=model.dtype
            )
        self.bridge.requires_grad_(False)
        self.bridge.cfg.default_prepend_bos = self.bos_id is not None
        names = ["hook_embed", *(f"blocks.{layer}.{h}" for layer in range(self.n_layers) for h in BLOCK_HOOKS)]
        offered = self.bridge.hook_dict
        self._hooks = [name for name in names if name in offered]

    def hooks(self) -> list[str]:
        return list(self._hooks)

    @torch.no_grad()
    def capture(self, input_ids: Tensor, attention_mask: Tensor | None, hooks: Sequence[str]) -> dict[str, Tensor]:
        self.check(*hooks)
        check_padding(attention_mask)
        last = max((int(h.split(".")[1]) for h in hooks if h.startswith("blocks.")), default=-1)
        _, cache = self.bridge.run_with_cache(
            input_ids.to(self.device),
            return_type=None,
            names_filter=list(hooks),
            stop_at_layer=last + 1 if last + 1 < self.n_layers else None,
        )
        return {hook: cache[hook].float().flatten(2) for hook in hooks}

    @contextmanager
    def edit(self, hook: str, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
        self.check(hook)

        if not hook.endswith("hook_resid_mid"):
            with self._visited(hook, change):
                yield
            return
        at_norm, at_end = around_norm(change)
        end = self.bridge.hook_dict[hook.replace("hook_resid_mid", "hook_resid_post")]
        # As a plain torch hook, since the bridge cannot put one before those that are already there.
        handle = end.register_forward_hook(_on_output(at_end), prepend=True)
        try:
            with self._visited(hook, at_norm):
                yield
        finally:
            handle.remove()

    def _visited(self, hook: str, visit: Callable[[Tensor], Tensor]) -> AbstractContextManager[Any]:
        def replace(x: Tensor, hook: Any) -> Tensor:
            return visit(x.flatten(2)).view_as(x)

        return self.bridge.hooks(fwd_hooks=[(hook, replace)])

    def logits(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        check_padding(attention_mask)
        return self.bridge(input_ids.to(self.device), return_type="logits")

    def unembed(self) -> tuple[Tensor, Tensor | None]:
        weight = getattr(self.bridge.ln_final, "weight", None)
        offset = 1.0 if getattr(self.bridge.cfg, "rmsnorm_uses_offset", False) else 0.0
        scale = None if weight is None else weight.detach() + offset
        return self.model.get_output_embeddings().weight.detach(), scale


def _on_output(visit: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    return lambda _module, _args, output: visit(output)
