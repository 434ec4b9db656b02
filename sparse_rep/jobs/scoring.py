"""Dictionaries on held-out text: how well they reconstruct, and what they cost the model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch

from sparse_rep.activations import ActivationBatch
from sparse_rep.config import TrainConfig
from sparse_rep.corpora.source import captured
from sparse_rep.corpora.tokenised import Corpus
from sparse_rep.evaluation.reconstruction import Metric, Reconstruction, ScoredBatch
from sparse_rep.evaluation.splicing import splice_losses
from sparse_rep.hosting.model import HostedModel
from sparse_rep.progress import Reporter
from sparse_rep.saes.coder import Dictionary

SPLICE_WINDOWS = 8
"""Held-out windows on which the loss with the dictionary spliced in is measured: the whole model runs three times on each."""


def score(
    coders: Mapping[str, Dictionary],
    model: HostedModel,
    corpus: Corpus,
    config: TrainConfig,
    median_norms: dict[str, float],
    reporter: Reporter,
) -> dict[str, list[Metric]]:
    """Every metric of every dictionary on the held-out documents, from one pass of the model.

    Empty lists where the corpus holds none out.
    """
    windows = corpus.windows(config.text.context, model.bos_id, "heldout")
    if not len(windows):
        reporter.say("no documents are held out, so nothing is scored; see text.heldout_share")
        return {name: [] for name in coders}
    domains = sorted(set(corpus.docs["domain"]))
    starts = torch.tensor(corpus.docs["tok_lo"])
    domain_of_doc = torch.tensor([domains.index(d) for d in corpus.docs["domain"]])
    target_hook = config.target_hook

    def batches() -> Iterator[ScoredBatch]:
        with reporter.task("scoring", windows.n_tokens) as advance:
            for part in captured(model, windows, corpus.token_ids, range(len(windows)), list(median_norms), 4096):
                x, target = part.x[config.hook], None if target_hook is None else part.x[target_hook]
                domain = domain_of_doc[torch.searchsorted(starts, part.tok.cpu(), right=True) - 1]
                scored = part.position >= config.skip_positions
                for hook, norm in median_norms.items():
                    scored &= part.x[hook].norm(dim=-1) <= config.max_norm_ratio * norm
                yield ScoredBatch(ActivationBatch(x, part.tok, target=target), domain.to(x.device), scored)
                advance(len(x))

    sums = {name: Reconstruction(coder, domains) for name, coder in coders.items()}
    for item in batches():
        for reconstruction in sums.values():
            reconstruction.update(item)
    reporter.say("measuring the model's loss with the dictionary spliced in")
    spread = range(0, len(windows), max(len(windows) // SPLICE_WINDOWS, 1))[:SPLICE_WINDOWS]
    pairs = [
        (batch.input_ids, batch.attention_mask)
        for index in spread
        for batch in windows.batches(corpus.token_ids, range(index, index + 1), 4096)
        if batch.input_ids.shape[1] > config.skip_positions + 1
    ]
    metrics = {}
    for name, coder in coders.items():
        losses = splice_losses(model, coder, config.hook, pairs, config.skip_positions, target_hook)
        metrics[name] = sums[name].metrics() + [Metric(None, key, value) for key, value in losses.items()]
    return metrics
