"""Dictionaries that sparsify and dictionary_learning wrote."""

import json
from pathlib import Path

import pytest
import torch

from sparse_rep.activations import ActivationBatch
from sparse_rep.errors import ConfigError, DataError
from sparse_rep.saes.formats.dictionary_learning import from_dictionary_learning
from sparse_rep.saes.formats.sparsify import from_sparsify, hook_folder

D, M = 24, 96


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(60, D, generator=torch.Generator().manual_seed(1)) * 3 + 1


@pytest.mark.parametrize("settings", [{}, {"transcode": True}, {"transcode": True, "skip_connection": True}], ids=str)
def test_a_folder_that_sparsify_wrote_gives_its_codes_and_reconstructions(
    tmp_path: Path, x: torch.Tensor, settings: dict
):
    sparsify = pytest.importorskip("sparsify")
    torch.manual_seed(0)
    theirs = sparsify.SparseCoder(D, sparsify.SparseCoderConfig(num_latents=M, k=7, **settings))
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    theirs.save_to_disk(tmp_path / "layers.3")
    ours = from_sparsify(hook_folder(tmp_path))
    with torch.no_grad():
        top, where, _ = theirs.encode(x)
        expected = torch.zeros(len(x), M).scatter(1, where, top)
        codes = ours.encode(x)
        torch.testing.assert_close(codes.dense(), expected, rtol=1e-5, atol=1e-5)
        out = ours.reconstruct(ActivationBatch(x), codes)
        torch.testing.assert_close(out, theirs(x).sae_out, rtol=1e-4, atol=1e-4)


def test_of_several_hook_points_one_must_be_named(tmp_path: Path):
    for name in ("layers.1", "layers.2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "sae.safetensors").touch()
        (tmp_path / name / "cfg.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"layers\.1, layers\.2"):
        hook_folder(tmp_path)


def test_sparsifys_other_activation_is_refused(tmp_path: Path):
    (tmp_path / "sae.safetensors").touch()
    (tmp_path / "cfg.json").write_text(json.dumps({"activation": "groupmax", "d_in": D, "num_latents": M, "k": 3}))
    with pytest.raises(ConfigError, match="groupmax"):
        from_sparsify(tmp_path)


def saved(folder: Path, name: str, state: dict[str, torch.Tensor]) -> Path:
    folder.mkdir(exist_ok=True)
    torch.save(state, folder / "ae.pt")
    trainer = {"dict_class": name, "activation_dim": D, "dict_size": M}
    (folder / "config.json").write_text(json.dumps({"trainer": trainer}))
    return folder


def linear(*names: str) -> dict[str, torch.Tensor]:
    """Tensors by dictionary_learning's names; its linear layers keep (out, in)."""
    rng = torch.Generator().manual_seed(3)
    shapes = {"encoder.weight": (M, D), "decoder.weight": (D, M), "W_enc": (D, M), "W_dec": (M, D)}
    sizes = {"b_dec": D, "bias": D, "decoder_bias": D}
    return {name: torch.randn(shapes.get(name, (sizes.get(name, M),)), generator=rng) * 0.3 for name in names}


def test_dictionary_learnings_topk(tmp_path: Path, x: torch.Tensor):
    state = linear("encoder.weight", "encoder.bias", "decoder.weight", "b_dec") | {"k": torch.tensor(5)}
    ours = from_dictionary_learning(saved(tmp_path, "AutoEncoderTopK", state | {"threshold": torch.tensor(-1.0)}))
    codes = ((x - state["b_dec"]) @ state["encoder.weight"].T + state["encoder.bias"]).relu()
    top = codes.topk(5)
    expected = torch.zeros_like(codes).scatter(1, top.indices, top.values)
    torch.testing.assert_close(ours.encode(x).dense(), expected, rtol=1e-5, atol=1e-5)
    out = expected @ state["decoder.weight"].T + state["b_dec"]
    torch.testing.assert_close(ours.decode(ours.encode(x)), out, rtol=1e-5, atol=1e-5)


def test_dictionary_learnings_batchtopk_and_matryoshka(tmp_path: Path, x: torch.Tensor):
    extra = {"k": torch.tensor(5), "threshold": torch.tensor(0.9)}
    flat = linear("encoder.weight", "encoder.bias", "decoder.weight", "b_dec") | extra
    nested = linear("W_enc", "b_enc", "W_dec", "b_dec") | extra | {"group_sizes": torch.tensor([16, 32, 48])}
    for name, state, encoder, bias in (
        ("BatchTopKSAE", flat, flat["encoder.weight"].T, flat["encoder.bias"]),
        ("MatryoshkaBatchTopKSAE", nested, nested["W_enc"], nested["b_enc"]),
    ):
        ours = from_dictionary_learning(saved(tmp_path / name, name, state))
        codes = ((x - state["b_dec"]) @ encoder + bias).relu()
        expected = codes * (codes > 0.9)
        torch.testing.assert_close(ours.encode(x).coalesce().dense(), expected, rtol=1e-5, atol=1e-5)


def test_dictionary_learnings_standard_one_gets_unit_atoms_as_its_own_loader_gives_it(tmp_path: Path, x: torch.Tensor):
    state = linear("encoder.weight", "encoder.bias", "decoder.weight", "bias")
    ours = from_dictionary_learning(saved(tmp_path, "AutoEncoder", state))
    norms = state["decoder.weight"].norm(dim=0)
    codes = ((x - state["bias"]) @ state["encoder.weight"].T + state["encoder.bias"]).relu()
    torch.testing.assert_close(ours.atoms.norm(dim=-1), torch.ones(M))
    torch.testing.assert_close(ours.encode(x).coalesce().dense(), codes * norms, rtol=1e-5, atol=1e-5)


def test_dictionary_learnings_gated_and_jumprelu_ones(tmp_path: Path, x: torch.Tensor):
    gated = linear("encoder.weight", "decoder.weight", "r_mag", "gate_bias", "mag_bias", "decoder_bias")
    ours = from_dictionary_learning(saved(tmp_path / "gated", "GatedAutoEncoder", gated))
    seen = (x - gated["decoder_bias"]) @ gated["encoder.weight"].T
    expected = (seen + gated["gate_bias"] > 0) * (gated["r_mag"].exp() * seen + gated["mag_bias"]).relu()
    torch.testing.assert_close(ours.encode(x).coalesce().dense(), expected, rtol=1e-5, atol=1e-5)

    jump = linear("W_enc", "b_enc", "W_dec", "b_dec", "threshold")
    jump["threshold"].abs_()
    ours = from_dictionary_learning(saved(tmp_path / "jump", "JumpReluAutoEncoder", jump))
    pre = x @ jump["W_enc"] + jump["b_enc"]  # it leaves b_dec on its input
    expected = pre * (pre > jump["threshold"])
    torch.testing.assert_close(ours.encode(x).coalesce().dense(), expected, rtol=1e-4, atol=1e-4)


class Payload:
    def __reduce__(self):
        return (pytest.fail, ("code of a checkpoint was run",))


def test_code_in_a_checkpoint_is_never_run(tmp_path: Path):
    folder = saved(tmp_path, "AutoEncoder", {})
    torch.save({"bias": Payload()}, folder / "ae.pt")
    with pytest.raises(DataError, match="more than tensors"):
        from_dictionary_learning(folder)


def test_an_unknown_class_and_a_wrong_size_are_named(tmp_path: Path):
    with pytest.raises(ConfigError, match="IdentityDict"):
        from_dictionary_learning(saved(tmp_path / "a", "IdentityDict", {}))
    state = linear("encoder.weight", "encoder.bias", "decoder.weight", "bias")
    state["encoder.bias"] = torch.zeros(M - 1)
    with pytest.raises(DataError, match="b_enc should be"):
        from_dictionary_learning(saved(tmp_path / "b", "AutoEncoder", state))
