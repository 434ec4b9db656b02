"""Random numbers by purpose: worlds, tokens and initial weights must not share any."""

from __future__ import annotations

import numpy as np
import torch

WORLD, HELDOUT, TOKENS, WEIGHTS, PREFIXES = range(5)
"""What a stream is for; a key is (seed, purpose, number)."""


def generator(*key: int) -> torch.Generator:
    """A generator of its own for each key, (seed, purpose, number).

    Hashed rather than counted: a world drawn from the seed that a dictionary is initialised from would hand it the truth.
    """
    low, high = np.random.SeedSequence(key).generate_state(2).tolist()
    return torch.Generator().manual_seed(high << 32 | low)
