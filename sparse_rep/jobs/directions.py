"""What a latent's direction says by itself: the tokens it promotes, and the atoms it resembles."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from sparse_rep.hosting.model import HostedModel
from sparse_rep.jobs.dictionaries import Loaded

ROWS_AT_ONCE = 512
"""Latents whose logits (512 x vocabulary, float32) are held at a time: 100 MB for 49,152 tokens."""


@torch.no_grad()
def feature_logits(loaded: Loaded, model: HostedModel, n_top: int = 10) -> dict[str, Any]:
    """Columns of `feature_logits`: the tokens each atom raises and lowers most, written straight to the logits.

    The direct path only: atom, times the final norm's scale, times the unembedding, mean over the vocabulary taken away (a
    shift of all logits changes no probability). Later layers may do otherwise. Empty where the hook is not on the residual
    stream's width.
    """
    W_U, scale = model.unembed()
    atoms = loaded.coder.atoms
    if atoms.shape[1] != W_U.shape[1]:
        return {}
    directions = (atoms if scale is None else atoms * scale).float()
    unembedding = W_U.float()
    found = {"value": [], "token_id": []}
    for rows in directions.split(ROWS_AT_ONCE):
        logits = rows @ unembedding.T
        logits -= logits.mean(-1, keepdim=True)
        both = [logits.topk(n_top, largest=largest) for largest in (True, False)]
        found["value"].append(torch.stack([b.values for b in both], 1).cpu())
        found["token_id"].append(torch.stack([b.indices for b in both], 1).cpu())
    values, token_ids = (torch.cat(found[name]).numpy() for name in ("value", "token_id"))  # (m, 2, n_top)
    m = len(values)
    ids = token_ids.reshape(-1)
    texts = {i: model.tokenizer.decode([i], clean_up_tokenization_spaces=False) for i in np.unique(ids).tolist()}
    return {
        "dictionary_id": [loaded.dictionary_id] * len(ids),
        "feature": np.repeat(np.arange(m, dtype=np.uint32), 2 * n_top),
        "sign": np.tile(np.repeat(np.array([1, -1], np.int8), n_top), m),
        "rank": np.tile(np.arange(1, n_top + 1, dtype=np.uint16), 2 * m),
        "token_id": ids.astype(np.uint32),
        "token": [texts[i] for i in ids.tolist()],
        "value": values.reshape(-1).astype(np.float32),
    }


@torch.no_grad()
def feature_neighbors(loaded: Loaded, n_top: int = 10) -> dict[str, Any]:
    """Columns of `feature_neighbors`: the atoms with the highest cosine to each atom, itself left out."""
    atoms = loaded.coder.atoms.float()
    unit = atoms / atoms.norm(dim=-1, keepdim=True).clamp(min=1e-12)
    n_top = min(n_top, len(unit) - 1)
    cosines, others = [], []
    for first in range(0, len(unit), ROWS_AT_ONCE):
        cosine = unit[first : first + ROWS_AT_ONCE] @ unit.T
        own = torch.arange(len(cosine), device=cosine.device)
        cosine[own, own + first] = -torch.inf
        best = cosine.topk(n_top)
        cosines.append(best.values.cpu())
        others.append(best.indices.cpu())
    m = len(unit)
    return {
        "dictionary_id": [loaded.dictionary_id] * (m * n_top),
        "feature": np.repeat(np.arange(m, dtype=np.uint32), n_top),
        "rank": np.tile(np.arange(1, n_top + 1, dtype=np.uint16), m),
        "other": torch.cat(others).numpy().reshape(-1).astype(np.uint32),
        "cosine": torch.cat(cosines).numpy().reshape(-1).astype(np.float32),
    }
