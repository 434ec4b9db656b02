"""A model as changed: splicing a coder in, and taking it out again."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sparse_rep.activations import ActivationBatch
from sparse_rep.codes import SparseCodes
from sparse_rep.config import ModelConfig
from sparse_rep.hosting.load import load_model
from sparse_rep.hosting.views import Identity, Splice, View
from sparse_rep.saes.coder import SparseCoder

HOOK = "blocks.1.hook_resid_post"


class Exact(SparseCoder):
    """Every entry is its own unit: reconstructs whatever it is given, times a factor."""

    def __init__(self, width: int, factor: float = 1.0) -> None:
        super().__init__()
        self.d_in = self.d_out = self.n_latents = width
        self.factor = factor

    def encode(self, batch: ActivationBatch | Tensor) -> SparseCodes:
        x = ActivationBatch.wrap(batch).x
        return SparseCodes(x, torch.arange(self.d_in).expand(x.shape), self.d_in)

    def reconstruct(self, batch: ActivationBatch | Tensor, codes: SparseCodes) -> Tensor:
        return codes.values * self.factor

    def loss(self, batch: ActivationBatch) -> dict[str, Tensor]:
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        return {"kind": "exact"}


def test_splicing_in_a_perfect_coder_changes_nothing(tiny: Callable[..., str], ids: Tensor) -> None:
    model = load_model(ModelConfig(name=tiny("llama"), device="cpu"))
    plain = model.loss(ids)
    with View(model, (Identity(), Splice(Exact(model.d_model), HOOK, skip_positions=0))).applied() as seen:
        assert torch.equal(seen.loss(ids), plain)
    assert torch.equal(model.loss(ids), plain)


def test_a_splice_leaves_the_first_positions_alone(tiny: Callable[..., str], ids: Tensor) -> None:
    model = load_model(ModelConfig(name=tiny("llama"), device="cpu"))
    plain = model.capture(ids, None, [HOOK])[HOOK]
    with View(model, (Splice(Exact(model.d_model, factor=0.0), HOOK, skip_positions=2),)).applied():
        spliced = model.capture(ids, None, [HOOK])[HOOK]
    assert torch.equal(spliced[:, :2], plain[:, :2])
    assert (spliced[:, 2:] == 0).all()
    assert torch.equal(model.capture(ids, None, [HOOK])[HOOK], plain)
