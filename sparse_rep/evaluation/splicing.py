"""What a dictionary costs the model: next-token loss with the reconstruction spliced in, against none and ablation.

ce_recovered = (CE_ablated - CE_spliced) / (CE_ablated - CE_clean)      (SAELens and SAEBench: "ce_loss_score")
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Int
from torch import Tensor

from sparse_rep.hosting.model import HostedModel
from sparse_rep.hosting.views import Splice
from sparse_rep.saes.coder import SparseCoder


@torch.no_grad()
def splice_losses(
    model: HostedModel,
    coder: SparseCoder,
    hook: str,
    windows: Iterable[tuple[Int[Tensor, "b t"], Int[Tensor, "b t"]]],
    skip_positions: int = 1,
    target_hook: str | None = None,
) -> dict[str, float]:
    """Mean loss a token in nats: clean, spliced, and with the hook set to zero; and the share recovered.

    A transcoder is spliced in, and its target ablated, at `target_hook`. `windows` are (input_ids, attention_mask). The
    first `skip_positions` of each window keep their activation in all three.
    Empty where there are no windows.
    """

    def ablate(x: Tensor) -> Tensor:
        x = x.clone()
        x[:, skip_positions:] = 0
        return x

    splice = Splice(coder, hook, skip_positions, target_hook)
    totals = {"ce_clean": 0.0, "ce_spliced": 0.0, "ce_ablated": 0.0}
    n = 0
    for ids, mask in windows:
        n += int(mask[:, 1:].sum())
        totals["ce_clean"] += float(model.loss(ids, mask).sum())
        with splice.apply(model):
            totals["ce_spliced"] += float(model.loss(ids, mask).sum())
        with model.edit(target_hook or hook, ablate):
            totals["ce_ablated"] += float(model.loss(ids, mask).sum())
    if n == 0:
        return {}
    mean = {name: total / n for name, total in totals.items()}
    recovered = (mean["ce_ablated"] - mean["ce_spliced"]) / (mean["ce_ablated"] - mean["ce_clean"])
    return {**mean, "ce_recovered": recovered}
