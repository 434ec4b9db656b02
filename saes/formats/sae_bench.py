"""A dictionary as SAEBench's evaluations want it (sae-bench 0.6, custom_saes/base_sae.py)."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sparse_rep.codes import SparseCodes
from sparse_rep.errors import ConfigError
from sparse_rep.saes.coder import Dictionary


@dataclass
class BenchConfig:
    """The fields of SAEBench's CustomSAEConfig."""

    model_name: str
    d_in: int
    d_sae: int
    hook_layer: int
    hook_name: str
    context_size: int | None = None
    hook_head_index: int | None = None
    architecture: str = ""
    apply_b_dec_to_input: bool | None = None
    finetuning_scaling_factor: bool | None = None
    activation_fn_str: str = ""
    activation_fn_kwargs: dict[str, Any] = field(default_factory=dict)
    prepend_bos: bool = True
    normalize_activations: str = "none"
    dtype: str = ""
    device: str = ""
    model_from_pretrained_kwargs: dict[str, Any] = field(default_factory=dict)
    dataset_path: str = ""
    dataset_trust_remote_code: bool = True
    seqpos_slice: tuple[Any, ...] = (None,)
    training_tokens: int = -100_000

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@final
class BenchSAE(nn.Module):
    """Dense codes in and out, on (n, d) and on (b, t, d); W_enc (d, m), W_dec (m, d) of unit rows.

    Its evaluations read columns of W_enc: matching pursuit, which has none, shows the transpose of its atoms. Run it as
    `run_eval(..., selected_saes=[("my-id", bench_sae(dictionary, ...))])`.
    """

    def __init__(self, dictionary: Dictionary, cfg: BenchConfig) -> None:
        super().__init__()
        folded = dictionary.folded()
        self.dictionary, self.cfg = folded.eval(), cfg
        atoms = folded.atoms.detach()
        own = getattr(folded, "W_enc", None)
        self.W_enc = nn.Parameter((atoms if own is None else own.detach()).T.clone(), requires_grad=False)
        self.W_dec = nn.Parameter(atoms.clone(), requires_grad=False)
        bias = getattr(folded, "b_enc", None)
        self.b_enc = nn.Parameter(
            torch.zeros(len(atoms)) if bias is None else bias.detach().clone(), requires_grad=False
        )
        self.b_dec = nn.Parameter(folded.b_dec.detach().clone(), requires_grad=False)  # pyright: ignore[reportCallIssue]

    @property
    def device(self) -> torch.device:
        return self.W_dec.device

    @property
    def dtype(self) -> torch.dtype:
        return self.W_dec.dtype

    @torch.no_grad()
    def encode(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... m"]:
        rows = x.reshape(-1, x.shape[-1])
        dense = self.dictionary.encode(rows.to(self.dtype)).coalesce().dense()
        return dense.view(*x.shape[:-1], -1).to(x.dtype)

    @torch.no_grad()
    def decode(self, codes: Float[Tensor, "... m"]) -> Float[Tensor, "... d"]:
        rows = codes.reshape(-1, codes.shape[-1])
        width = max(int((rows != 0).sum(-1).max()), 1)
        indices = rows.abs().topk(width).indices
        sparse = SparseCodes(rows.gather(-1, indices).to(self.dtype), indices, rows.shape[-1])
        return self.dictionary.decode(sparse).view(*codes.shape[:-1], -1).to(codes.dtype)

    def forward(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        return self.decode(self.encode(x))


def bench_sae(dictionary: Dictionary, model_name: str, hook_name: str, **cfg: Any) -> BenchSAE:
    """Wraps a dictionary that reads `hook_name` (blocks.L....). Raises ConfigError for a transcoder."""
    if dictionary.d_in != dictionary.d_out or getattr(dictionary, "transcodes", False):
        raise ConfigError("SAEBench scores dictionaries that reconstruct their own input; this is a transcoder")
    layer = int(hook_name.split(".")[1])
    return BenchSAE(
        dictionary,
        BenchConfig(
            model_name, dictionary.d_in, dictionary.n_latents, layer, hook_name,
            architecture=dictionary.describe()["kind"], dtype="float32", **cfg,
        ),
    )  # fmt: skip
