"""The output projection of a layer's attention, head by head."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from sparse_rep.hosting.families import FAMILIES
from sparse_rep.hosting.model import HostedModel


def output_weight(model: HostedModel, layer: int, n_heads: int) -> Float[Tensor, "d h dv"]:
    """W_O of a layer: what each head's output is multiplied by. A norm after it (Gemma 2 and 3, OLMo 2) is not in it."""
    hf = model.model
    place = FAMILIES[hf.config.model_type].places(hf.config.get_text_config())[f"blocks.{layer}.attn.hook_z"]
    module = hf.get_submodule(place.module)
    # GPT-2's Conv1D keeps its weight the other way round.
    weight = module.weight.T if type(module).__name__ == "Conv1D" else module.weight
    return weight.detach().unflatten(1, (n_heads, -1))
