"""The capture of what the model itself would say: its most probable next token, and its loss on the true one."""

from __future__ import annotations

from typing import Any, final

import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as F

from sparse_rep.corpora.tokenised import Corpus
from sparse_rep.hosting.model import HostedModel
from sparse_rep.jobs.capture import Capture, Found, Seen


@final
class PredictionCapture(Capture):
    """Rows of `predictions`. The model is run to its end once more for each batch: what scales or caps logits is its own."""

    def fit(self, model: HostedModel, corpus: Corpus) -> dict[str, Any]:
        self._model = model
        self._rows: list[tuple[np.ndarray, ...]] = []
        self.hooks = [model.hooks()[0]]  # the cheapest: nothing of the captured pass is looked at
        return {}

    def see(self, seen: Seen) -> None:
        batch = seen.batch
        logits = self._model.logits(batch.input_ids, batch.attention_mask)
        targets = batch.input_ids[:, 1:].to(logits.device)
        # A row at a time: a float32 copy of all logits is the largest tensor of the whole pass.
        losses = [
            F.cross_entropy(row[:-1].float(), t, reduction="none") for row, t in zip(logits, targets, strict=True)
        ]
        loss = F.pad(torch.stack(losses).cpu(), (0, 1), value=torch.nan)
        followed = F.pad(batch.real[:, 1:], (0, 1))
        said = logits.argmax(-1).cpu()
        real = batch.real
        self._rows.append((said[real].numpy(), loss.where(followed, torch.nan)[real].numpy(), batch.tok.numpy()))

    def take(self) -> Found:
        said, loss, tok = (np.concatenate(column) for column in zip(*self._rows, strict=True))
        self._rows = []
        order = np.argsort(tok)
        return Found(
            tables={
                "predictions": {
                    "tok": tok[order].astype(np.uint32),
                    "token_id": said[order].astype(np.uint32),
                    "loss": pa.array(loss[order], from_pandas=True),
                }
            }
        )
