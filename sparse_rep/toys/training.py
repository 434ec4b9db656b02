"""Training the toy mixture: one loop, one seed, minutes on a GPU."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sparse_rep.hosting.quiet import quiet_transformers
from sparse_rep.progress import Reporter
from sparse_rep.routing.balance import balance_loss, z_loss
from sparse_rep.toys.config import ToyMoeConfig
from sparse_rep.toys.mixture import new_mixture, routers_heard
from sparse_rep.toys.scoring import heldout_loss, unigram_loss
from sparse_rep.toys.text import ToyText

RECIPE_FILE = "recipe.json"


def train_mixture(config: ToyMoeConfig, text: ToyText, folder: Path, device: str, reporter: Reporter) -> dict[str, Any]:
    """Train the mixture, write it to `folder` in Hugging Face layout with bf16 weights, and score what was written.

    Weights and gradients are float32, products TF32 on a GPU. Beside the weights lies recipe.json: settings, text, loss curve,
    scores, machine.

    Returns the recipe.
    """
    started = time.monotonic()
    torch.set_float32_matmul_precision("high")
    model = new_mixture(config, len(text.tokenizer)).to(device)
    optimiser = _optimiser(model, config)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _lr_share(step, config))
    curve: list[dict[str, Any]] = []
    recent: list[Tensor] = []
    tokens_step = config.batch_windows * config.text.context
    with routers_heard(model) as routers, reporter.task("train", config.n_steps * tokens_step) as advance:
        for step, ids in enumerate(windows(text, config), 1):
            routers.clear()
            losses = step_losses(model, ids.to(device), routers)
            (losses[0] + config.balance * losses[1] + config.z * losses[2]).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            optimiser.zero_grad()
            recent.append(losses.detach())
            if step % config.eval_every == 0 or step == config.n_steps:
                curve.append(_point(step, torch.stack(recent).mean(0).tolist(), model, text, config))
                recent.clear()
                reporter.event("loss", **curve[-1])
                advance(0, f"loss {curve[-1]['train']:.3f}, held out {curve[-1]['heldout']['all']:.3f}")
            advance(tokens_step)
    seconds = time.monotonic() - started
    _save(model, text.tokenizer, folder)
    recipe = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "tokens": config.n_steps * tokens_step,
        "steps": config.n_steps,
        "seconds": round(seconds, 1),
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu",
        "torch": torch.__version__,
        **score(folder, text, config, device),
        "corpus": text.corpus.meta,
        "curve": curve,
        "config": config.model_dump(mode="json"),
    }
    (folder / RECIPE_FILE).write_text(json.dumps(recipe, indent=1) + "\n")
    return recipe


def windows(text: ToyText, config: ToyMoeConfig) -> Iterator[Tensor]:
    """`n_steps` batches (batch_windows, context + 1) of token ids, drawn by `config.seed`; a window lies in one domain."""
    streams = [text.stream(domain) for domain in sorted(text.documents("train"))]
    share = np.array([len(s) ** config.domain_power for s in streams])
    random = np.random.default_rng(config.seed)
    length = config.text.context + 1
    for _ in range(config.n_steps):
        chosen = random.choice(len(streams), size=config.batch_windows, p=share / share.sum())
        starts = [random.integers(len(streams[c]) - length + 1) for c in chosen]
        rows = [streams[c][s : s + length] for c, s in zip(chosen, starts, strict=True)]
        yield torch.from_numpy(np.stack(rows))


def step_losses(model: Any, ids: Tensor, routers: list[tuple[Tensor, Tensor]]) -> Tensor:
    """(3,): next-token loss, and the mean over layers of the balance loss and of the z loss."""
    logits = model(input_ids=ids[:, :-1], use_cache=False).logits
    loss = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
    balance = torch.stack([balance_loss(logits.softmax(1), chosen) for logits, chosen in routers]).mean()
    return torch.stack([loss, balance, torch.stack([z_loss(logits) for logits, _ in routers]).mean()])


def score(folder: Path, text: ToyText, config: ToyMoeConfig, device: str) -> dict[str, Any]:
    """Held-out loss by domain of a model as written, beside a unigram model's."""
    from transformers import AutoModelForCausalLM

    with quiet_transformers():
        model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.to(device).eval()
    model_loss = heldout_loss(model, text, config.text.context)
    unigram = unigram_loss(text, config.text.context)
    return {
        "heldout_nats": {k: round(v, 4) for k, v in model_loss.items()},
        "unigram_nats": {k: round(v, 4) for k, v in unigram.items()},
        "below_unigram": round(1 - model_loss["all"] / unigram["all"], 4),
    }


def _point(step: int, losses: list[float], model: Any, text: ToyText, config: ToyMoeConfig) -> dict[str, Any]:
    model.eval()
    heldout = heldout_loss(model, text, config.text.context, config.eval_tokens)
    model.train()
    train, balance, z = (round(v, 4) for v in losses)
    return {
        "step": step,
        "train": train,
        "balance": balance,
        "z": z,
        "heldout": {k: round(v, 4) for k, v in heldout.items()},
    }


def _optimiser(model: Any, config: ToyMoeConfig) -> torch.optim.Optimizer:
    embedding = model.get_input_embeddings().weight
    plain = [p for p in model.parameters() if p.ndim < 2 or p is embedding]
    matrices = [p for p in model.parameters() if p.ndim >= 2 and p is not embedding]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.95), fused=True)


def _lr_share(step: int, config: ToyMoeConfig) -> float:
    warmup = max(1, round(config.warmup_share * config.n_steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, config.n_steps - warmup)))


def _save(model: Any, tokenizer: Any, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    with quiet_transformers():
        model.to(torch.bfloat16).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
