"""sae-lens' own training classes as the oracle: equal weights in, equal codes and losses out, where the definitions agree.

Where they do not: sae-lens divides no loss by the variance, clips AuxK's dead latents at nothing (ours at 0), and lets the
gated auxiliary term train the decoder, which the paper freezes (the value is the same).
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from sparse_rep.activations import ActivationBatch
from sparse_rep.saes.losses import variance

sae_lens = pytest.importorskip("sae_lens")

D, M, N = 12, 40, 50


@pytest.fixture
def x() -> Tensor:
    return torch.randn(N, D, generator=torch.Generator().manual_seed(2)) * 3 + 1


def twin(name: str, ours: Any, **cfg: Any) -> Any:
    """sae-lens' class with our (folded) weights."""
    config = getattr(sae_lens, f"{name}Config")
    theirs = getattr(sae_lens, name)(config(d_in=D, d_sae=M, device="cpu", apply_b_dec_to_input=True, **cfg))
    with torch.no_grad():
        theirs.W_dec.copy_(ours.W_dec)
        theirs.b_dec.copy_(ours.b_dec)
        if hasattr(ours, "W_enc"):
            theirs.W_enc.copy_(ours.W_enc.T)
        for mine, other in (("b_enc", "b_gate" if hasattr(theirs, "b_gate") else "b_enc"), ("r_mag", "r_mag"),
                            ("b_mag", "b_mag"), ("threshold", "threshold")):  # fmt: skip
            if isinstance(getattr(ours, mine, None), torch.nn.Parameter):
                getattr(theirs, other).copy_(getattr(ours, mine))
    return theirs


def step(theirs: Any, x: Tensor, dead: Tensor | None = None, **coefficients: float) -> Any:
    from sae_lens.saes.sae import TrainStepInput

    return theirs.training_forward_pass(TrainStepInput(x, coefficients, dead, 1, False))


def unscaled(coder: Any) -> Any:
    coder.scale.fill_(1)
    coder.target_scale.fill_(1) if hasattr(coder, "target_scale") else None
    return coder


@pytest.fixture
def coder(random_coder: Callable[..., Any]) -> Callable[..., Any]:
    return lambda kind, **settings: unscaled(random_coder(kind, D, dtype=torch.float32, **settings))


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours.detach().float(), theirs.detach().float(), rtol=1e-4, atol=1e-5)


def test_batchtopk_has_the_same_codes_and_loss(coder: Callable[..., Any], x: Tensor) -> None:
    ours = coder("batchtopk", k=4.5)
    theirs = twin("BatchTopKTrainingSAE", ours, k=4.5, rescale_acts_by_decoder_norm=False)
    out, expected = ours.loss(ActivationBatch(x)), step(theirs, x)
    close(out["fvu"] * variance(x), expected.losses["mse_loss"])
    assert out["l0"].item() == pytest.approx((expected.feature_acts.to_dense() != 0).sum().item() / N)
    # After one batch our threshold is the least value of that batch; theirs is a hundredth of the way from 0 to it.
    close(out["threshold"], theirs.topk_threshold / theirs.cfg.topk_threshold_lr)


def test_matryoshka_sums_the_same_losses(coder: Callable[..., Any], x: Tensor) -> None:
    ours = coder("matryoshka", k=4.5, prefix_shares=(0.1, 0.5, 1))
    theirs = twin("MatryoshkaBatchTopKTrainingSAE", ours, k=4.5, matryoshka_widths=[4, 20, 40],
                  rescale_acts_by_decoder_norm=False)  # fmt: skip
    out, expected = ours.loss(ActivationBatch(x)), step(theirs, x)
    for width in (4, 20):
        close(out[f"fvu_{width}"] * variance(x), expected.losses[f"inner_mse_loss_{width}"])
    close(out["loss"] * variance(x), expected.loss)


def test_standard_has_the_same_codes_and_losses(coder: Callable[..., Any], x: Tensor) -> None:
    ours = coder("standard", penalty=0.5, penalty_warmup_tokens=0)
    theirs = twin("StandardTrainingSAE", ours)
    out, expected = ours.loss(ActivationBatch(x)), step(theirs, x, l1=0.5)
    close(ours.encode(x).dense(), expected.feature_acts)
    close(out["sparsity"] * variance(x), expected.losses["l1_loss"])
    close(out["loss"] * variance(x), expected.loss)


@pytest.mark.parametrize("variant", ["step", "tanh"])
def test_jumprelu_has_the_same_codes_losses_and_gradients(coder: Callable[..., Any], x: Tensor, variant: str) -> None:
    ours = coder(
        "jumprelu", variant=variant, bandwidth=0.5, penalty=0.5, penalty_warmup_tokens=0, pre_act_coefficient=0.1
    )
    theirs = twin("JumpReLUTrainingSAE", ours, jumprelu_bandwidth=0.5, jumprelu_sparsity_loss_mode=variant,
                  jumprelu_ste_to_input=variant == "tanh",
                  pre_act_loss_coefficient=0.1 if variant == "tanh" else None)  # fmt: skip
    # sae-lens pulls dead latents alone; the update that it follows pulls all, as we do.
    out = ours.loss(ActivationBatch(x))
    expected = step(theirs, x, dead=torch.ones(M, dtype=torch.bool), l0=0.5)
    close(ours.encode(x).dense(), expected.feature_acts)
    close(out["sparsity"] * variance(x), expected.losses["l0_loss"])
    close(out["loss"] * variance(x), expected.loss)
    (out["loss"] * variance(x)).backward()
    expected.loss.backward()
    close(ours.threshold.grad, theirs.threshold.grad)
    close(ours.W_enc.grad, theirs.W_enc.grad.T)


def test_gated_has_the_same_codes_and_losses(coder: Callable[..., Any], x: Tensor) -> None:
    ours = coder("gated", penalty=0.5, penalty_warmup_tokens=0)
    theirs = twin("GatedTrainingSAE", ours)
    out, expected = ours.loss(ActivationBatch(x)), step(theirs, x, l1=0.5)
    close(ours.encode(x).dense(), expected.feature_acts)
    close(out["sparsity"] * variance(x), expected.losses["l1_loss"])
    close(out["gate_fvu"] * variance(x), expected.losses["auxiliary_reconstruction_loss"])
    close(out["loss"] * variance(x), expected.loss)


def test_pursuit_takes_the_same_steps(coder: Callable[..., Any], x: Tensor) -> None:
    ours = coder("mp", k=6)
    theirs = twin("MatchingPursuitTrainingSAE", ours, max_iterations=6, residual_threshold=0.0,
                  stop_on_duplicate_support=False, decoder_init_norm=1.0)  # fmt: skip
    out, expected = ours.loss(ActivationBatch(x)), step(theirs, x)
    close(ours.encode(x).dense(), expected.feature_acts)
    close(out["fvu"] * variance(x), expected.losses["mse_loss"])


def test_pursuit_stops_at_the_same_residual(coder: Callable[..., Any], x: Tensor) -> None:
    ours = coder("mp", k=30, tolerance=0.4)
    theirs = twin("MatchingPursuitTrainingSAE", ours, max_iterations=30, residual_threshold=ours.residual_threshold,
                  stop_on_duplicate_support=False, decoder_init_norm=1.0)  # fmt: skip
    codes, expected = ours.encode(x).dense(), step(theirs, x).feature_acts
    counts = (codes != 0).sum(-1)
    assert counts.min() < counts.max() < 30
    close(codes, expected)
