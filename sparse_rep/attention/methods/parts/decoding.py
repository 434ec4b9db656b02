"""Methods that prune a cache: the text's end stands for an answer that is decoded after the prompt before it."""

from __future__ import annotations

from pydantic import Field

from sparse_rep.attention.layer import Context
from sparse_rep.attention.methods.parts.budget import keys_seen, largest
from sparse_rep.config_base import Config


class DecodingConfig(Config):
    """What every such method needs, since a profiled text is not cut into prompt and answer."""

    answer: int = Field(default=128, ge=1)
    """Positions at the end that stand for the answer, at most a quarter of the text. Only they are scored. Not of a paper."""

    def first_answer(self, n: int) -> int:
        """Position of the answer's first query; the prompt is what lies before."""
        return n - min(self.answer, max(n // 4, 1))


def capacity_within(context: Context, first_answer: int, budget: float) -> int:
    """Most prompt keys that every query of the answer may keep, beside the answer's own keys, within a share of its pairs."""
    seen = keys_seen(context, first_answer)
    answer = seen.new_ones(len(seen)).cumsum(0)
    return largest(lambda k: (answer + k).clamp(max=seen).sum().item(), budget * seen.sum().item(), 1, first_answer)
