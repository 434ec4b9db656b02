"""Dictionaries as others see them: the real sae-lens loader is the oracle."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from sparse_rep.activations import ActivationBatch
from sparse_rep.config import TopKConfig
from sparse_rep.config_dictionary import ARCHITECTURES
from sparse_rep.errors import ConfigError, DataError
from sparse_rep.saes.formats.sae_lens import to_sae_lens
from sparse_rep.saes.formats.stored import load_dictionary, save_dictionary
from sparse_rep.saes.registry import build_coder
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


def lively(kind: str, d_out: int | None = None, **settings: object) -> Any:
    """A dictionary of a kind with every tensor set, and activations scaled as a model's are."""
    rng = torch.Generator().manual_seed(0)
    config = ARCHITECTURES[kind].checked({"kind": kind, "n_latents": 96, **settings})
    coder = build_coder(config, 24, d_out=d_out)
    sample = torch.randn(500, 24, generator=rng) * 30 + 5
    target = None if d_out is None else torch.randn(500, d_out, generator=rng) * 4 - 1
    coder.initialise(ActivationBatch(sample, target=target), rng)
    with torch.no_grad():
        for name, parameter in coder.named_parameters():
            if name != "W_dec" and not (kind == "mp" and name == "b_dec"):
                parameter.add_(torch.randn(parameter.shape, generator=rng) * 0.05)
        if kind in ("batchtopk", "matryoshka"):
            coder.threshold.value.fill_(0.7)
        if kind == "jumprelu":
            coder.threshold.abs_().add_(0.3)
    return coder.eval()


CASES = {
    "standard": lively("standard"),
    "gated": lively("gated"),
    "topk": lively("topk", k=8),
    "batchtopk": lively("batchtopk", k=8),
    "matryoshka": lively("matryoshka", k=8),
    "jumprelu": lively("jumprelu"),
    "mp": lively("mp", k=7),
    "mp within a tolerance": lively("mp", k=20, tolerance=0.4),
    "mp until a repeat": lively("mp", k=40, stop_on_repeat=True),
    "transcoder": lively("standard", 16),
    "skip transcoder": lively("standard", 16, skip=True),
    "jumprelu transcoder": lively("jumprelu", 16),
    "batchtopk skip transcoder": lively("batchtopk", 16, k=8, skip=True),
}


def codes_of(coder: Any, x: torch.Tensor) -> torch.Tensor:
    return coder.encode(x).coalesce().dense()


def reconstructed(coder: Any, x: torch.Tensor) -> torch.Tensor:
    return coder.reconstruct(ActivationBatch(x), coder.encode(x))


@pytest.mark.parametrize("case", CASES)
def test_sae_lens_gives_equal_codes_and_reconstructions(tmp_path: Path, case: str, x: torch.Tensor) -> None:
    sae_lens = pytest.importorskip("sae_lens")
    ours = CASES[case]
    save_dictionary(ours, tmp_path / "sae", METADATA, density=torch.rand(96))
    theirs = sae_lens.SAE.load_from_disk(str(tmp_path / "sae"))
    with torch.no_grad():
        expected = codes_of(ours, x)
        assert (expected != 0).any()
        scale = expected.abs().max()
        torch.testing.assert_close(theirs.encode(x) / scale, expected / scale, rtol=1e-5, atol=1e-5)
        out = theirs(x)
        torch.testing.assert_close(
            out / out.abs().max(), reconstructed(ours, x) / out.abs().max(), rtol=1e-5, atol=1e-5
        )
    assert theirs.cfg.metadata.hook_name == METADATA["hook_name"]


@pytest.mark.parametrize("case", CASES)
def test_a_saved_dictionary_comes_back_as_the_kind_it_was(tmp_path: Path, case: str, x: torch.Tensor) -> None:
    ours = CASES[case]
    save_dictionary(ours, tmp_path / "sae", METADATA)
    loaded = load_dictionary(tmp_path / "sae")
    assert loaded.describe() == ours.describe()
    with torch.no_grad():
        scale = codes_of(ours, x).abs().max()
        torch.testing.assert_close(codes_of(loaded, x) / scale, codes_of(ours, x) / scale, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(reconstructed(loaded, x), reconstructed(ours, x), rtol=1e-4, atol=1e-3)


THEIRS = {
    "standard": ("StandardSAE", {}),
    "standard, b_dec left on the input": ("StandardSAE", {"apply_b_dec_to_input": False}),
    "gated": ("GatedSAE", {}),
    "gated, b_dec left on the input": ("GatedSAE", {"apply_b_dec_to_input": False}),
    "topk": ("TopKSAE", {"k": 8}),
    "topk by atoms' norms": ("TopKSAE", {"k": 8, "rescale_acts_by_decoder_norm": True}),
    "jumprelu": ("JumpReLUSAE", {}),
    "matching pursuit": ("MatchingPursuitSAE", {"residual_threshold": 8.0, "max_iterations": 12}),
    "transcoder": ("Transcoder", {"d_out": 16, "apply_b_dec_to_input": False}),
    "skip transcoder": ("SkipTranscoder", {"d_out": 16, "apply_b_dec_to_input": False}),
    "jumprelu transcoder": ("JumpReLUTranscoder", {"d_out": 16, "apply_b_dec_to_input": False}),
}


@pytest.mark.parametrize("case", THEIRS)
def test_a_directory_that_sae_lens_wrote_gives_equal_codes(tmp_path: Path, case: str, x: torch.Tensor) -> None:
    sae_lens = pytest.importorskip("sae_lens")
    name, settings = THEIRS[case]
    theirs = getattr(sae_lens, name)(getattr(sae_lens, f"{name}Config")(d_in=24, d_sae=96, device="cpu", **settings))
    rng = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=rng) * 0.3)
        if "threshold" in dict(theirs.named_parameters()):
            theirs.threshold.abs_()
        if name == "MatchingPursuitSAE":
            theirs.W_dec.div_(theirs.W_dec.norm(dim=-1, keepdim=True))
    theirs.save_model(str(tmp_path / "theirs"))
    ours = load_dictionary(tmp_path / "theirs")
    with torch.no_grad():
        expected = theirs.encode(x)
        torch.testing.assert_close(codes_of(ours, x), expected, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(reconstructed(ours, x), theirs(x), rtol=1e-4, atol=1e-3)


def test_what_sae_lens_has_no_word_for_keeps_a_layout_of_its_own(tmp_path: Path, x: torch.Tensor) -> None:
    for coder in (lively("topk", 16, k=8), lively("gated", 16)):
        save_dictionary(coder, tmp_path / "sae", METADATA)
        assert not (tmp_path / "sae" / "sae_weights.safetensors").exists()
        assert torch.equal(codes_of(load_dictionary(tmp_path / "sae"), x), codes_of(coder, x))
        with pytest.raises(ConfigError, match="SAELens has no"):
            to_sae_lens(coder, {})


def test_a_normalisation_that_is_not_folded_is_refused(tmp_path: Path, trained: TopK) -> None:
    save_dictionary(trained, tmp_path / "sae", METADATA)
    cfg = tmp_path / "sae" / "cfg.json"
    cfg.write_text(json.dumps(json.loads(cfg.read_text()) | {"normalize_activations": "layer_norm"}))
    with pytest.raises(ConfigError, match="layer_norm"):
        load_dictionary(tmp_path / "sae")


def test_a_pickle_in_place_of_weights_is_refused(tmp_path: Path, trained: TopK) -> None:
    save_dictionary(trained, tmp_path / "sae", METADATA)
    torch.save({"W_enc": torch.zeros(1)}, tmp_path / "sae" / "sae_weights.safetensors")
    with pytest.raises(DataError, match="safetensors"):
        load_dictionary(tmp_path / "sae")


def test_our_own_round_trip_is_exact_up_to_the_folded_scale(tmp_path: Path, trained: TopK, x: torch.Tensor) -> None:
    save_dictionary(trained, tmp_path / "sae", METADATA)
    loaded = load_dictionary(tmp_path / "sae")
    torch.testing.assert_close(loaded.encode(x).dense(), trained.encode(x).dense(), rtol=1e-5, atol=1e-4)
    assert torch.equal(loaded.atoms, trained.atoms)


def test_weights_that_disagree_with_the_cfg_are_named(tmp_path: Path, trained: TopK) -> None:
    save_dictionary(trained, tmp_path / "sae", METADATA)
    cfg = tmp_path / "sae" / "cfg.json"
    cfg.write_text(json.dumps(json.loads(cfg.read_text()) | {"d_sae": 95}))
    with pytest.raises(DataError, match="W_enc should be"):
        load_dictionary(tmp_path / "sae")


def test_an_architecture_we_cannot_read_is_named(tmp_path: Path, trained: TopK) -> None:
    save_dictionary(trained, tmp_path / "sae", METADATA)
    cfg = tmp_path / "sae" / "cfg.json"
    cfg.write_text(json.dumps(json.loads(cfg.read_text()) | {"architecture": "temporal"}))
    with pytest.raises(ConfigError, match="temporal"):
        load_dictionary(tmp_path / "sae")


def test_a_directory_without_a_dictionary_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no dictionary"):
        load_dictionary(tmp_path / "nothing")
