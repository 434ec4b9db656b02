"""Dictionaries as others see them: the real sae-lens loader is the oracle."""

import json
from pathlib import Path

import pytest
import torch

from sparse_rep.config import TopKConfig
from sparse_rep.errors import ConfigError, DataError
from sparse_rep.saes.interop import load_sae_lens, save_sae_lens
from sparse_rep.saes.topk import TopK

METADATA = {"model_name": "SmolLM2-135M", "hook_name": "blocks.9.hook_resid_post", "sparse_rep_run_id": "demo-1234"}


@pytest.fixture
def trained() -> TopK:
    rng = torch.Generator().manual_seed(0)
    dictionary = TopK(TopKConfig(n_latents=96, k=8), 24)
    dictionary.initialise(torch.randn(500, 24, generator=rng) * 30 + 5, rng)
    with torch.no_grad():
        dictionary.b_enc.copy_(torch.randn(96, generator=rng) * 0.1)
        dictionary.W_enc.add_(torch.randn(96, 24, generator=rng) * 0.05)
    return dictionary


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(200, 24, generator=torch.Generator().manual_seed(1)) * 30 + 5


def test_sae_lens_gives_equal_codes_and_reconstructions(tmp_path: Path, trained: TopK, x: torch.Tensor) -> None:
    sae_lens = pytest.importorskip("sae_lens")
    save_sae_lens(trained, tmp_path / "sae", METADATA, density=torch.rand(96))
    theirs = sae_lens.SAE.load_from_disk(str(tmp_path / "sae"))
    codes = trained.encode(x)
    with torch.no_grad():
        their_codes = theirs.encode(x)
        torch.testing.assert_close(their_codes, codes.dense(), rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(theirs.decode(their_codes), trained.decode(codes), rtol=1e-4, atol=1e-3)
    assert theirs.cfg.metadata.hook_name == METADATA["hook_name"]


def test_a_directory_that_sae_lens_wrote_gives_equal_codes(tmp_path: Path, x: torch.Tensor) -> None:
    sae_lens = pytest.importorskip("sae_lens")
    torch.manual_seed(0)
    theirs = sae_lens.TopKSAE(sae_lens.TopKSAEConfig(d_in=24, d_sae=96, k=8, device="cpu"))
    with torch.no_grad():
        theirs.W_dec.mul_(torch.rand(96, 1) + 0.5)
        theirs.b_dec.add_(1.0)
    theirs.save_model(str(tmp_path / "theirs"))
    ours = load_sae_lens(tmp_path / "theirs")
    with torch.no_grad():
        their_codes = theirs.encode(x)
        torch.testing.assert_close(ours.encode(x).dense(), their_codes, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(ours.decode(ours.encode(x)), theirs.decode(their_codes), rtol=1e-4, atol=1e-3)


def test_our_own_round_trip_is_exact_up_to_the_folded_scale(tmp_path: Path, trained: TopK, x: torch.Tensor) -> None:
    save_sae_lens(trained, tmp_path / "sae", METADATA)
    loaded = load_sae_lens(tmp_path / "sae")
    torch.testing.assert_close(loaded.encode(x).dense(), trained.encode(x).dense(), rtol=1e-5, atol=1e-4)
    assert torch.equal(loaded.atoms, trained.atoms)


def test_weights_that_disagree_with_the_cfg_are_named(tmp_path: Path, trained: TopK) -> None:
    save_sae_lens(trained, tmp_path / "sae", METADATA)
    cfg = tmp_path / "sae" / "cfg.json"
    cfg.write_text(json.dumps(json.loads(cfg.read_text()) | {"d_sae": 95}))
    with pytest.raises(DataError, match="W_enc should be"):
        load_sae_lens(tmp_path / "sae")


def test_an_architecture_we_cannot_read_is_named(tmp_path: Path, trained: TopK) -> None:
    save_sae_lens(trained, tmp_path / "sae", METADATA)
    cfg = tmp_path / "sae" / "cfg.json"
    cfg.write_text(json.dumps(json.loads(cfg.read_text()) | {"architecture": "gated"}))
    with pytest.raises(ConfigError, match="gated"):
        load_sae_lens(tmp_path / "sae")


def test_a_directory_without_a_dictionary_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no dictionary"):
        load_sae_lens(tmp_path / "nothing")
