"""Dictionaries made elsewhere, from their files into a store and out of it again."""

import json
from pathlib import Path

import pytest
import torch

from sparse_rep.errors import ConfigError
from sparse_rep.jobs.extract import extract
from sparse_rep.jobs.importing import import_dictionary
from sparse_rep.progress import Reporter
from sparse_rep.saes.formats.stored import load_dictionary
from sparse_rep.store import Store

QUIET = Reporter(silent=True)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store", create=True)


def bring(store: Store, source: str | Path, name: str | None = None, model: str | None = None, hook: str | None = None):
    return import_dictionary(store, str(source), QUIET, name=name, model=model, hook=hook)


def test_a_sae_lens_directory_is_imported_with_its_provenance_and_equal_codes(store: Store, tmp_path: Path):
    sae_lens = pytest.importorskip("sae_lens")
    torch.manual_seed(0)
    theirs = sae_lens.JumpReLUSAE(
        sae_lens.JumpReLUSAEConfig(
            d_in=24,
            d_sae=64,
            metadata=sae_lens.saes.sae.SAEMetadata(**{"model_name": "gpt2", "hook_name": "blocks.8.hook_resid_pre"}),
        )
    )
    with torch.no_grad():
        theirs.threshold.fill_(0.2)
    theirs.save_model(str(tmp_path / "theirs"))
    found = bring(store, tmp_path / "theirs", name="public one")
    assert found == {
        "dictionary_id": "public-one", "kind": "jumprelu", "d_in": 24, "n_latents": 64, "model": "gpt2",
        "hook": "blocks.8.hook_resid_pre",
    }  # fmt: skip
    x = torch.randn(20, 24)
    ours = load_dictionary(store.dictionary_path("public-one"))
    torch.testing.assert_close(ours.encode(x).coalesce().dense(), theirs.encode(x), rtol=1e-5, atol=1e-5)
    row = store.query("SELECT kind, model, hook, n_latents FROM dictionaries").to_pylist()
    assert row == [{"kind": "jumprelu", "model": "gpt2", "hook": "blocks.8.hook_resid_pre", "n_latents": 64}]


def test_the_other_layouts_say_where_they_were_trained(store: Store, tmp_path: Path):
    sparsify = pytest.importorskip("sparsify")
    sparsify.SparseCoder(24, sparsify.SparseCoderConfig(num_latents=64, k=4)).save_to_disk(
        tmp_path / "run" / "layers.9"
    )
    (tmp_path / "run" / "config.json").write_text(json.dumps({"model": "HuggingFaceTB/SmolLM2-135M"}))
    found = bring(store, tmp_path / "run")
    assert (found["model"], found["hook"]) == ("HuggingFaceTB/SmolLM2-135M", "blocks.9.hook_resid_post")

    folder = tmp_path / "trainer_0"
    folder.mkdir()
    state = {"encoder.weight": torch.randn(64, 24), "encoder.bias": torch.zeros(64), "bias": torch.zeros(24)}
    torch.save(state | {"decoder.weight": torch.randn(24, 64)}, folder / "ae.pt")
    trainer = {"dict_class": "AutoEncoder", "activation_dim": 24, "dict_size": 64, "lm_name": "EleutherAI/pythia-70m"}
    (folder / "config.json").write_text(json.dumps({"trainer": {**trainer, "submodule_name": "resid_post_layer_3"}}))
    found = bring(store, folder)
    assert (found["model"], found["hook"]) == ("EleutherAI/pythia-70m", "blocks.3.hook_resid_post")


def test_what_the_files_do_not_say_must_be_given(store: Store, tmp_path: Path):
    sparsify = pytest.importorskip("sparsify")
    sparsify.SparseCoder(24, sparsify.SparseCoderConfig(num_latents=64, k=4)).save_to_disk(tmp_path / "odd.place")
    with pytest.raises(ConfigError, match="--model"):
        bring(store, tmp_path / "odd.place")
    with pytest.raises(ConfigError, match="--hook"):
        bring(store, tmp_path / "odd.place", model="gpt2")
    bring(store, tmp_path / "odd.place", name="mine", model="gpt2", hook="blocks.1.hook_mlp_out")
    with pytest.raises(ConfigError, match="mine already"):
        bring(store, tmp_path / "odd.place", name="mine", model="gpt2", hook="blocks.1.hook_mlp_out")


def test_a_release_that_does_not_exist_names_its_neighbours(store: Store):
    pytest.importorskip("sae_lens")
    with pytest.raises(ConfigError, match="gpt2-small-res-jb"):
        bring(store, "saelens:gpt2-small-res-jbb/blocks.8.hook_resid_pre")
    with pytest.raises(ConfigError, match=r"blocks\.8\.hook_resid_pre"):
        bring(store, "saelens:gpt2-small-res-jb/blocks.8.hook_resid_prex")


def test_a_release_is_loaded_by_sae_lens_and_kept_with_its_name(store: Store, monkeypatch: pytest.MonkeyPatch):
    sae_lens = pytest.importorskip("sae_lens")
    released = sae_lens.StandardSAE(
        sae_lens.StandardSAEConfig(
            d_in=24,
            d_sae=64,
            metadata=sae_lens.saes.sae.SAEMetadata(
                **{"model_name": "gpt2-small", "hook_name": "blocks.8.hook_resid_pre"}
            ),
        )
    )
    monkeypatch.setattr(sae_lens.SAE, "from_pretrained", lambda release, sae_id: released)
    found = bring(store, "saelens:gpt2-small-res-jb/blocks.8.hook_resid_pre", model="gpt2")
    assert found["dictionary_id"] == "gpt2-small-res-jb-blocks.8.hook_resid_pre"
    cfg = json.loads((store.dictionary_path(found["dictionary_id"]) / "cfg.json").read_text())
    assert cfg["metadata"]["sparse_rep_release"] == "gpt2-small-res-jb/blocks.8.hook_resid_pre"
    assert cfg["metadata"]["model_name"] == "gpt2"


def test_a_path_that_is_nothing_is_one_sentence(store: Store, tmp_path: Path):
    with pytest.raises(ConfigError, match="is not a directory"):
        bring(store, tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="no dictionary"):
        bring(store, tmp_path / "empty")


def test_extraction_runs_with_an_imported_dictionary(extract_config, workshop: Path, quiet: Reporter, tmp_path: Path):
    sae_lens = pytest.importorskip("sae_lens")
    torch.manual_seed(0)
    theirs = sae_lens.GatedSAE(sae_lens.GatedSAEConfig(d_in=32, d_sae=48))
    theirs.save_model(str(tmp_path / "gated"))
    config = extract_config("gated")
    store = Store(config.store, create=True)
    bring(store, tmp_path / "gated", model=config.model.name, hook="blocks.1.hook_resid_post")
    done = extract(config, quiet)
    assert done["n_tokens"] > 0
    codes = store.query(
        "SELECT count(*) AS n, max(feature) AS last FROM acts WHERE dictionary_id = 'gated'"
    ).to_pylist()[0]
    assert codes["n"] == done["n_rows"] > 0
    assert codes["last"] < 48
