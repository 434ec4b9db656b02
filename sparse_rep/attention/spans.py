"""MoA's calibration on a model: how much the loss asks of every head's far keys, and the spans that follow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from sparse_rep.attention.capture import attention_seen
from sparse_rep.attention.layer import LayerAttention
from sparse_rep.attention.methods.moa import MoAConfig, Span, choose_spans, influence
from sparse_rep.errors import ConfigError
from sparse_rep.hosting.model import HostedModel

CANDIDATES: tuple[Span, ...] = tuple(
    (alpha, beta) for alpha in (64.0, 128.0, 256.0, 512.0, 1024.0) for beta in (0.0, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0)
)
"""Spans to choose among. Ours: the paper searches a grid of as many, over the lengths that it calibrates at."""


def calibrate(
    model: HostedModel,
    texts: Mapping[int, Sequence[Int[Tensor, " n"]]],
    density: float = 0.5,
    candidates: Sequence[Span] = CANDIDATES,
    block: int = 64,
) -> MoAConfig:
    """MoA with a span for every head, chosen over all layers at once.

    The paper's loss is that of the dense model's own long answers; here it is next-token cross entropy on the texts given.

    Args:
        model: hosted by the backend transformers; its attention must see all keys before a query.
        texts: token ids of one or more texts of each length. Memory holds one text's forward pass.
        density: share of the pairs that heads may keep on average, at every length (the paper's default is a half).
        candidates: (alpha, beta) to choose among.
        block: positions a block.

    Raises:
        ConfigError: no text, texts too short for the density, or a layer with a window, a capped softmax or learned sinks.
    """
    if not any(texts.values()):
        raise ConfigError("calibrating spans wants at least one text")
    influences = {}
    for n, same_length in texts.items():
        found = [torch.cat(list(loss_influence(model, ids, block).values())) for ids in same_length]
        influences[n] = torch.stack(found).mean(0)
    spans = choose_spans(influences, block, density, candidates)
    heads = model.n_heads
    return MoAConfig(block=block, spans=tuple(tuple(spans[i : i + heads]) for i in range(0, len(spans), heads)))


def loss_influence(model: HostedModel, ids: Int[Tensor, " n"], block: int) -> dict[int, Float[Tensor, "h b b"]]:
    """Influence of masking on the mean next-token loss of one text, by layer, summed over blocks; on the CPU."""
    found: dict[int, Tensor] = {}

    def attend(layer: LayerAttention, row: int) -> Tensor:
        if layer.window is not None or layer.softcap is not None or layer.sinks is not None:
            raise ConfigError(
                f"layer {layer.layer} has a window, a capped softmax or sinks, which MoA's spans do not know"
            )
        k, v = (x.repeat_interleave(layer.context.group, 0) for x in (layer.k, layer.v))
        out = F.scaled_dot_product_attention(layer.q[None], k[None], v[None], is_causal=True, scale=layer.scaling)[0]
        if not out.requires_grad:
            # The first layer's output is where the graph starts: parameters take no gradients.
            out = out.detach().requires_grad_()
        plain = LayerAttention(
            layer.q.detach(), layer.k.detach(), layer.v.detach(), scale=layer.scale, layer=layer.layer
        )

        def keep(gradient: Tensor) -> None:
            with torch.no_grad():
                found[layer.layer] = influence(plain, gradient, block).cpu()

        out.register_hook(keep)
        return out

    ids = ids.to(model.device)
    with torch.enable_grad(), attention_seen(model, attend):
        logits = model.model(input_ids=ids[None]).logits[0]
        F.cross_entropy(logits[:-1].float(), ids[1:]).backward()
    return dict(sorted(found.items()))
