"""Random numbers by purpose: worlds, tokens and initial weights must not share any."""

from __future__ import annotations

import numpy as np
import torch

WORLD, HELDOUT, TOKENS, WEIGHTS, PREFIXES = range(5)
"""What a stream is for."""


def generator(seed: int, purpose: int, number: int = 0) -> torch.Generator:
    """A generator of its own for each seed, purpose and number (of a chunk, say).

    Hashed rather than counted: a world drawn from the seed that a dictionary is initialised from would hand it the truth.
    """
    low, high = np.random.SeedSequence((seed, purpose, number)).generate_state(2).tolist()
    return torch.Generator().manual_seed(high << 32 | low)
