"""Our own hooks on a Hugging Face model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, final

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from sparse_rep.errors import ConfigError
from sparse_rep.hosting.families import FAMILIES, Place, family_of
from sparse_rep.hosting.forward import around_norm, check_padding
from sparse_rep.hosting.model import HostedModel, ModelOrigin

Visit = Callable[[Tensor], Tensor | None]
"""Sees an activation; what it returns, if anything, takes its place."""


class _SeenAll(Exception):
    """Ends a forward pass that has nothing more to show."""


@final
class HuggingFaceModel(HostedModel):
    """The usual backend: models of `FAMILIES` or laid out as Llama is. Their modules are untouched, hooks there while needed."""

    backend = "transformers"

    def __init__(self, model: Any, tokenizer: Any, origin: ModelOrigin) -> None:
        super().__init__(model, tokenizer, origin)
        family = family_of(model)
        if family is None:
            raise ConfigError(
                f"{origin.name} is a {model.config.model_type!r} model and our hooks know {', '.join(FAMILIES)}; "
                "try the backend transformer-lens"
            )
        self._family, self._places = family, family.places(self._config)

    def hooks(self) -> list[str]:
        return list(self._places)

    @torch.no_grad()
    def capture(self, input_ids: Tensor, attention_mask: Tensor | None, hooks: Sequence[str]) -> dict[str, Tensor]:
        self.check(*hooks)
        check_padding(attention_mask)
        seen: dict[str, Tensor] = {}

        def keep(hook: str) -> Visit:
            def visit(x: Tensor) -> None:
                seen[hook] = x.float()
                if len(seen) == len(set(hooks)):
                    raise _SeenAll

            return visit

        with ExitStack() as stack:
            for hook in hooks:
                stack.enter_context(self._visited(self._places[hook], keep(hook)))
            with suppress(_SeenAll):
                self.model.base_model(input_ids=input_ids.to(self.model.device), use_cache=False)
        return {hook: seen[hook] for hook in hooks}

    @contextmanager
    def edit(self, hook: str, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
        self.check(hook)
        if not hook.endswith("hook_resid_mid"):
            with self._visited(self._places[hook], change):
                yield
            return
        block = self._places[hook.replace("hook_resid_mid", "hook_resid_post")]
        at_norm, at_end = around_norm(change)
        # The end of the block is visited before edits of hook_resid_post that are already there.
        with self._visited(self._places[hook], at_norm), self._visited(block, at_end, first=True):
            yield

    def logits(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        check_padding(attention_mask)
        return self.model(input_ids=input_ids.to(self.model.device), use_cache=False).logits

    def unembed(self) -> tuple[Tensor, Tensor | None]:
        weight = getattr(self.model.get_submodule(self._family.final_norm), "weight", None)
        scale = None if weight is None else weight.detach() + self._family.norm_offset
        return self.model.get_output_embeddings().weight.detach(), scale

    @contextmanager
    def _visited(self, place: Place, visit: Visit, first: bool = False) -> Iterator[None]:
        """Hook `visit` to a place while the context is open; `first` puts it before the hooks already there."""
        module = self.model.get_submodule(place.module)
        handle: RemovableHandle
        if place.is_input:
            handle = module.register_forward_pre_hook(_on_input(visit), prepend=first, with_kwargs=True)
        else:
            handle = module.register_forward_hook(_on_output(visit), prepend=first)
        try:
            yield
        finally:
            handle.remove()


def _on_input(visit: Visit) -> Callable[..., Any]:
    def hook(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            new = visit(args[0])
            return None if new is None else ((new, *args[1:]), kwargs)
        new = visit(kwargs["hidden_states"])
        return None if new is None else (args, {**kwargs, "hidden_states": new})

    return hook


def _on_output(visit: Visit) -> Callable[..., Any]:
    def hook(_module: Any, _args: tuple[Any, ...], output: Any) -> Any:
        if isinstance(output, tuple):
            new = visit(output[0])
            return None if new is None else (new, *output[1:])
        return visit(output)

    return hook
