"""Every loss and all its gradients against the paper's formula written out densely in fp64, differentiated by autograd."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from sparse_rep.activations import ActivationBatch

Weights = dict[str, Tensor]
D = 12


def batch(d_out: int | None) -> ActivationBatch:
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(30, D, generator=rng, dtype=torch.float64) * 3 + 1
    target = None if d_out is None else torch.randn(30, d_out, generator=rng, dtype=torch.float64)
    return ActivationBatch(x, target=target)


def linear(w: Weights, x: Tensor, codes: Tensor) -> Tensor:
    out = codes @ w["W_dec"] + w["b_dec"]
    return out + x @ w["W_skip"].T if "W_skip" in w else out


def pre_activations(w: Weights, x: Tensor, transcodes: bool) -> Tensor:
    return (x if transcodes else x - w["b_dec"]) @ w["W_enc"].T + w["b_enc"]


def mse(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).square().sum(-1).mean()


def through(value: Tensor, gradient_of: Tensor) -> Tensor:
    """`value`, with the gradient of `gradient_of`: what a straight-through estimator claims."""
    return value.detach() + gradient_of - gradient_of.detach()


def topk(coder: Any, w: Weights, x: Tensor, y: Tensor) -> Tensor:
    pre = pre_activations(w, x, coder.transcodes)
    kept = torch.zeros_like(pre).scatter(1, pre.topk(coder.k).indices, 1.0)
    return mse(linear(w, x, pre.relu() * kept), y)


def batch_codes(coder: Any, w: Weights, x: Tensor) -> Tensor:
    codes = pre_activations(w, x, coder.transcodes).relu()
    least = codes.detach().flatten().topk(int(coder.k * len(x))).values[-1]
    return torch.where(codes >= least, codes, 0)


def batchtopk(coder: Any, w: Weights, x: Tensor, y: Tensor) -> Tensor:
    return mse(linear(w, x, batch_codes(coder, w, x)), y)


def matryoshka(coder: Any, w: Weights, x: Tensor, y: Tensor) -> Tensor:
    codes = batch_codes(coder, w, x)
    inside = torch.arange(codes.shape[1])
    return torch.stack([mse(linear(w, x, codes * (inside < width)), y) for width in coder.widths]).sum()


def standard(coder: Any, w: Weights, x: Tensor, y: Tensor) -> Tensor:
    codes = pre_activations(w, x, coder.transcodes).relu()
    return mse(linear(w, x, codes), y) + coder.config.penalty * codes.abs().sum(-1).mean()


def jumprelu(coder: Any, w: Weights, x: Tensor, y: Tensor) -> Tensor:
    c, theta = coder.config, w["threshold"]
    pre = pre_activations(w, x, coder.transcodes)
    above = (pre > theta).double()
    near = ((pre - theta).abs() / c.bandwidth < 0.5).double() / c.bandwidth
    shift = (
        theta - pre if c.variant == "tanh" else theta
    )  # Conerly et al. let the estimator reach the pre-activation too
    codes = pre * above + through(torch.zeros_like(pre), -(theta.detach() * near) * shift)
    if c.variant == "step":
        return mse(linear(w, x, codes), y) + c.penalty * through(above, -near * theta).sum(-1).mean()
    pull = c.pre_act_coefficient * (theta - pre).relu().sum(-1).mean()
    return mse(linear(w, x, codes), y) + c.penalty * torch.tanh(c.tanh_scale * codes).sum(-1).mean() + pull


def gated(coder: Any, w: Weights, x: Tensor, y: Tensor) -> Tensor:
    shared = (x if coder.transcodes else x - w["b_dec"]) @ w["W_enc"].T
    gate = shared + w["b_enc"]
    codes = (gate > 0) * (shared * w["r_mag"].exp() + w["b_mag"]).relu()
    frozen = {name: w[name].detach() for name in ("W_dec", "b_dec", "W_skip") if name in w}
    loss = mse(linear(w, x, codes), y) + coder.config.penalty * gate.relu().sum(-1).mean()
    return loss + mse(linear(frozen, x, gate.relu()), y)


def mp(coder: Any, w: Weights, x: Tensor, y: Tensor) -> Tensor:
    residual = x - w["b_dec"]
    for _ in range(coder.k):
        best = (residual @ w["W_dec"].T).argmax(-1)
        atom = w["W_dec"][best]
        residual = residual - (atom * residual).sum(-1, keepdim=True).relu() * atom
    return residual.square().sum(-1).mean()


CASES: dict[str, tuple[Callable[..., Tensor], dict[str, Any]]] = {
    "topk": (topk, {"k": 5}),
    "batchtopk": (batchtopk, {"k": 4.5}),
    "matryoshka": (matryoshka, {"k": 4.5, "prefix_shares": (0.1, 0.3, 1)}),
    "standard": (standard, {"penalty": 0.75, "penalty_warmup_tokens": 0}),
    "jumprelu": (jumprelu, {"penalty": 0.75, "penalty_warmup_tokens": 0, "bandwidth": 0.6}),
    "jumprelu-tanh": (
        jumprelu,
        {"penalty": 0.75, "penalty_warmup_tokens": 0, "bandwidth": 0.6, "variant": "tanh", "pre_act_coefficient": 0.2},
    ),
    "gated": (gated, {"penalty": 0.75, "penalty_warmup_tokens": 0}),
    "mp": (mp, {"k": 4}),
}


@pytest.mark.parametrize("other_hook", [False, True], ids=["autoencoder", "skip-transcoder"])
@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradients_are_those_of_the_dense_formula(
    case: str, other_hook: bool, random_coder: Callable[..., Any]
) -> None:
    dense, settings = CASES[case]
    kind = case.partition("-")[0]
    if kind == "mp" and other_hook:
        pytest.skip("matching pursuit codes by the atoms it decodes with")
    d_out = 7 if other_hook else None
    coder = random_coder(kind, D, d_out, **settings, **({"skip": True} if other_hook else {}))
    data = batch(d_out)
    ours = coder.loss(data)
    ours["loss"].backward()

    w = {name: p.detach().clone().requires_grad_() for name, p in coder.named_parameters()}
    x = data.x / coder.scale
    y = x if data.target is None else data.target / coder.target_scale
    spread = (y - y.mean(0)).square().sum(-1).mean()
    theirs = dense(coder, w, x, y) / spread
    theirs.backward()
    torch.testing.assert_close(ours["loss"].detach(), theirs.detach(), rtol=1e-10, atol=1e-10)
    for name, parameter in coder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, f"{name} is not trained"
        torch.testing.assert_close(
            parameter.grad, w[name].grad, rtol=1e-9, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("n_dead", [2, 4], ids=["fewer dead than k_aux", "more dead than k_aux"])
@pytest.mark.parametrize("kind", ["topk", "batchtopk", "matryoshka"])
def test_auxk_and_its_gradients_are_those_of_the_dense_formula(
    kind: str, n_dead: int, random_coder: Callable[..., Any]
) -> None:
    coder = random_coder(kind, D, k=2, k_aux=3, dead_after_tokens=1000)
    data = batch(None)
    coder.loss(data)
    idle = (coder.firing.tokens_since_fired > 0).nonzero()[:, 0]
    assert len(idle) >= 4
    coder.firing.tokens_since_fired[idle[:n_dead]] = 5000
    out, dead = coder.loss(data), coder.dead
    assert dead.sum() == n_dead
    gradients = torch.autograd.grad(out["aux"], list(coder.parameters()), allow_unused=True)

    w = {name: p.detach().clone().requires_grad_() for name, p in coder.named_parameters()}
    x = data.x / coder.scale
    live = pre_activations(w, x, False).relu()
    kept = torch.zeros_like(live).scatter(1, live.topk(2).indices, 1.0)
    codes = live * kept if kind == "topk" else batch_codes(coder, w, x)
    error = (x - linear(w, x, codes)).detach()
    of_dead = torch.where(dead, pre_activations(w, x, False), -torch.inf)
    chosen = of_dead.topk(min(3, int(dead.sum())))
    aux_codes = torch.zeros_like(live).scatter(1, chosen.indices, chosen.values.relu())
    strength = min(int(dead.sum()) / 3, 1)
    expected = strength * (error - aux_codes @ w["W_dec"]).square().sum() / error.square().sum()
    torch.testing.assert_close(out["aux"], expected, rtol=1e-10, atol=1e-12)
    wanted = torch.autograd.grad(expected, list(w.values()), allow_unused=True)
    for name, ours, theirs in zip(w, gradients, wanted, strict=True):
        assert (ours is None) == (theirs is None), name
        if theirs is not None and ours is not None:
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)
    assert gradients[list(w).index("W_enc")][dead].abs().max() > 0


@pytest.mark.parametrize("kind", ["topk", "batchtopk", "matryoshka", "standard", "jumprelu", "gated", "mp"])
def test_a_folded_copy_gives_the_same_codes_and_reconstructions(kind: str, random_coder: Callable[..., Any]) -> None:
    coder = random_coder(kind, D)
    data = batch(None)
    for factor in (1.0, 1.1):  # BatchTopK has a threshold once it has seen a batch, and after two it is nobody's value
        coder.loss(ActivationBatch(data.x * factor))
    folded = coder.folded()
    assert folded.scale == 1
    codes = coder.encode(data)
    torch.testing.assert_close(folded.encode(data).dense(), codes.dense(), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(folded.reconstruct(data, codes), coder.reconstruct(data, codes), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", ["topk", "batchtopk", "standard", "jumprelu", "gated"])
def test_a_folded_skip_transcoder_gives_the_same_predictions(kind: str, random_coder: Callable[..., Any]) -> None:
    coder, data = random_coder(kind, D, 7, skip=True), batch(7)
    for factor in (1.0, 1.1):
        coder.loss(ActivationBatch(data.x * factor, target=data.target))
    folded, codes = coder.folded(), coder.encode(data)
    torch.testing.assert_close(folded.encode(data).dense(), codes.dense(), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(folded.reconstruct(data, codes), coder.reconstruct(data, codes), rtol=1e-10, atol=1e-10)
