"""Neuronpedia's bulk import: its database's columns are what rows are held against, a store made by hand what they say."""

import gzip
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from handmade import HOOK, QUIET, M, N, corpus_only, dictionary, encode, one_sealed, put

from sparse_rep.errors import ConfigError
from sparse_rep.jobs import neuronpedia
from sparse_rep.jobs.neuronpedia import Labels, publish_neuronpedia
from sparse_rep.saes.formats.stored import load_dictionary
from sparse_rep.store import Store, StoreError


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Read it, never write it."""
    return one_sealed(tmp_path_factory.mktemp("sealed") / "store")


@pytest.fixture
def store(sealed: Store, tmp_path: Path) -> Store:
    """A copy to write to."""
    shutil.copytree(sealed.path, tmp_path / "store")
    return Store(tmp_path / "store")


@pytest.fixture
def empty(tmp_path: Path) -> Store:
    return corpus_only(tmp_path / "store")


@pytest.fixture(scope="module")
def page(sealed: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The exported folder of the dictionary `one`. Read it, never write it."""
    out = tmp_path_factory.mktemp("exported") / "out"
    publish_neuronpedia(sealed, out, QUIET)
    return out / "tiny-it" / "2-one"


def rows(folder: Path, name: str) -> list[dict[str, Any]]:
    files = sorted((folder / name).iterdir())
    return [json.loads(line) for file in files for line in gzip.decompress(file.read_bytes()).splitlines()]


# Columns of its database as the migrations of its web app make them; NULL where this export has nothing to say.

TEXT, FLOAT, INT, BOOL = (str,), (float,), (int,), (bool,)
TEXTS, FLOATS, INTS = [str], [float], [int]
NULL = (type(None),)
OWNED = {"creatorId": TEXT, "createdAt": TEXT}
COLUMNS: dict[str, dict[str, Any]] = {
    "release": {
        "name": TEXT, "description": TEXT, "descriptionShort": TEXT, "urls": TEXTS, "creatorName": TEXT, "creatorNameShort": TEXT,
        "creatorEmail": NULL, "visibility": TEXT, "isNewUi": BOOL, "featured": BOOL, "defaultSourceSetName": NULL,
        "defaultSourceId": NULL, "defaultUmapSourceIds": TEXTS, **OWNED,
    },
    "model": {
        "id": TEXT, "instruct": BOOL, "displayNameShort": TEXT, "displayName": TEXT, "tlensId": NULL, "dimension": NULL,
        "visibility": TEXT, "defaultSourceSetName": NULL, "defaultSourceId": NULL, "inferenceEnabled": BOOL, "layers": INT,
        "neuronsPerLayer": INT, "owner": TEXT, "updatedAt": TEXT, "website": NULL, **OWNED,
    },
    "sourceset": {
        "modelId": TEXT, "name": TEXT, "hasDashboards": BOOL, "visibility": TEXT, "description": TEXT, "type": TEXT,
        "creatorName": TEXT, "urls": TEXTS, "creatorEmail": NULL, "releaseName": TEXT, "defaultOfModelId": NULL,
        "defaultRange": INT, "defaultShowBreaks": BOOL, "showDfa": BOOL, "showCorrelated": BOOL, "showHeadAttribution": BOOL,
        "showUmap": BOOL, **OWNED,
    },
    "source": {
        "id": TEXT, "modelId": TEXT, "setName": TEXT, "hasDashboards": BOOL, "inferenceEnabled": BOOL, "inferenceHosts": TEXTS,
        "saelensConfig": NULL, "saelensRelease": NULL, "saelensSaeId": NULL, "hfRepoId": NULL, "hfFolderId": NULL,
        "visibility": TEXT, "defaultOfModelId": NULL, "hasUmap": BOOL, "hasUmapLogSparsity": BOOL, "hasUmapClusters": BOOL,
        "num_prompts": INT, "num_tokens_in_prompt": INT, "dataset": TEXT, "notes": TEXT, **OWNED,
    },
    "features": {
        "modelId": TEXT, "layer": TEXT, "index": TEXT, "sourceSetName": TEXT, "maxActApprox": FLOAT, "hasVector": BOOL,
        "vector": FLOATS, "vectorLabel": NULL, "vectorDefaultSteerStrength": FLOAT, "hookName": TEXT, "topkCosSimIndices": INTS,
        "topkCosSimValues": FLOATS, "neuron_alignment_indices": INTS, "neuron_alignment_values": FLOATS,
        "neuron_alignment_l1": FLOATS, "correlated_neurons_indices": INTS, "correlated_neurons_pearson": FLOATS,
        "correlated_neurons_l1": FLOATS, "correlated_features_indices": INTS, "correlated_features_pearson": FLOATS,
        "correlated_features_l1": FLOATS, "neg_str": TEXTS, "neg_values": FLOATS, "pos_str": TEXTS, "pos_values": FLOATS,
        "frac_nonzero": FLOAT, "freq_hist_data_bar_heights": FLOATS, "freq_hist_data_bar_values": FLOATS,
        "logits_hist_data_bar_heights": FLOATS, "logits_hist_data_bar_values": FLOATS, "decoder_weights_dist": FLOATS, **OWNED,
    },
    "activations": {
        "id": TEXT, "tokens": TEXTS, "dataIndex": NULL, "index": TEXT, "layer": TEXT, "modelId": TEXT, "dataSource": NULL,
        "maxValue": FLOAT, "maxValueTokenIndex": INT, "minValue": FLOAT, "values": FLOATS, "dfaValues": FLOATS,
        "dfaTargetIndex": NULL, "dfaMaxValue": NULL, "lossValues": FLOATS, "logitContributions": NULL, "binMin": FLOAT,
        "binMax": FLOAT, "binContains": FLOAT, "qualifyingTokenIndex": INT, **OWNED,
    },
}  # fmt: skip


def fits(value: Any, column: Any) -> bool:
    if isinstance(column, list):
        return isinstance(value, list) and all(type(item) is column[0] for item in value)
    return type(value) in column


@pytest.mark.parametrize("table", COLUMNS)
def test_every_row_has_the_columns_of_its_table_and_their_types(page: Path, table: str) -> None:
    found = (
        rows(page, table)
        if table in ("features", "activations")
        else [json.loads(line) for line in (page / f"{table}.jsonl").read_text().splitlines()]
    )
    assert len(found) == {"features": M, "activations": 12}.get(table, 1)
    for row in found:
        assert set(row) == set(COLUMNS[table])
        assert [name for name, value in row.items() if not fits(value, COLUMNS[table][name])] == []


def test_batches_are_of_128_features_and_none_is_empty(page: Path) -> None:
    """The importer reads the columns of a file from its first line, so that an empty file stops it."""
    names = {name: sorted(p.name for p in (page / name).iterdir()) for name in ("features", "activations")}
    assert names["features"] == [f"batch-{i}.jsonl.gz" for i in range(3)]
    assert names["activations"] == ["batch-0.jsonl.gz", "batch-1.jsonl.gz"], "features 256 to 299 are dead"
    sizes = [len(gzip.decompress((page / "features" / n).read_bytes()).splitlines()) for n in names["features"]]
    assert sizes == [128, 128, 44]


def test_rows_refer_to_each_other_and_ids_are_unique(page: Path) -> None:
    meta = {name: json.loads((page / f"{name}.jsonl").read_text()) for name in list(COLUMNS)[:4]}
    assert meta["sourceset"]["releaseName"] == meta["release"]["name"]
    assert meta["source"]["setName"] == meta["sourceset"]["name"] == "one"
    assert meta["source"]["id"] == page.name == "2-one"
    assert meta["source"]["modelId"] == meta["sourceset"]["modelId"] == meta["model"]["id"] == page.parent.name
    assert "4-bit" in meta["source"]["notes"], "a quantised model is called one wherever it is shown"
    assert (meta["source"]["num_tokens_in_prompt"], meta["source"]["num_prompts"]) == (25, 6)
    examples = rows(page, "activations")
    assert {(r["modelId"], r["layer"]) for r in [*examples, *rows(page, "features")]} == {("tiny-it", "2-one")}
    assert len({r["id"] for r in examples}) == len(examples)


def test_features_carry_the_numbers_of_the_store(page: Path, store: Store) -> None:
    found = {int(r["index"]): r for r in rows(page, "features")}
    first = found[0]
    assert (first["maxActApprox"], first["hookName"]) == (8.0, HOOK)
    assert first["frac_nonzero"] == pytest.approx(3 / N, rel=1e-5)
    # 40 bins over (0, 8]: 2, 4 and 8 are the upper edges of bins 9, 19 and 39.
    assert [i for i, n in enumerate(first["freq_hist_data_bar_heights"]) if n] == [9, 19, 39]
    assert first["freq_hist_data_bar_values"][:2] == [0.1, 0.3]
    assert (first["topkCosSimIndices"], first["topkCosSimValues"]) == ([299, 7], [0.1235, 0.25])
    assert (first["pos_str"], first["pos_values"]) == (["nul\ufffd", " one"], [1.25, 0.5])
    assert (first["neg_str"], first["neg_values"]) == (["zero", " two"], [-2.0, -1.0])
    assert found[5]["maxActApprox"] == 0.003906, "significant digits, not decimals"
    assert (found[200]["frac_nonzero"], found[200]["freq_hist_data_bar_heights"]) == (0.0, [])
    atoms = load_dictionary(store.dictionary_path("one")).atoms.detach().numpy()
    np.testing.assert_allclose([found[i]["vector"] for i in range(M)], atoms, rtol=1e-5)


def test_examples_are_the_text_around_a_token_within_its_document(page: Path) -> None:
    examples = [r for r in rows(page, "activations") if r["index"] == "0"]
    strongest = examples[:3]
    assert [(r["binMin"], r["binMax"], r["binContains"]) for r in strongest] == [(-1.0, 8.0, -1.0)] * 3
    peaks = [(r["values"][r["qualifyingTokenIndex"]], r["qualifyingTokenIndex"]) for r in strongest]
    assert peaks == [(8.0, 47), (4.0, 0), (2.0, 2)]
    # Token 60 with 47 before and 16 after; tokens 100 and 102 from the start of their document, with 16 after each.
    assert [len(r["tokens"]) for r in strongest] == [64, 17, 19]
    assert strongest[1]["tokens"][:5] == ["zero", " one", " two", "\n", "nul\ufffd"]
    assert strongest[2]["values"] == [4.0, 0.0, 2.0, *[0.0] * 16]
    assert (strongest[2]["maxValue"], strongest[2]["maxValueTokenIndex"], strongest[2]["minValue"]) == (4.0, 0, 0.0)


def test_intervals_follow_from_the_top_down_with_their_share_of_all_tokens(page: Path) -> None:
    examples = [r for r in rows(page, "activations") if r["index"] == "0"][3:]
    assert [(r["binMin"], r["binMax"]) for r in examples] == [(7.2, 8.0), (3.2, 4.0), (1.6, 2.4)]
    assert [r["binContains"] for r in examples] == [pytest.approx(1 / N, rel=1e-3)] * 3


def test_the_same_export_twice_is_the_same_rows(page: Path, store: Store, tmp_path: Path) -> None:
    publish_neuronpedia(store, tmp_path / "again", QUIET)
    for name in ("features", "activations"):
        assert rows(tmp_path / "again" / "tiny-it" / "2-one", name) == rows(page, name)


def test_names_on_neuronpedia_can_be_given_and_must_not_clash(store: Store, tmp_path: Path) -> None:
    labels = Labels(model="tiny-2b-it", source_set="res-tk", creator="Someone", creator_id="c1")
    written = publish_neuronpedia(store, tmp_path / "out", QUIET, labels=labels)
    assert written[0]["source"] == "tiny-2b-it/2-res-tk"
    folder = tmp_path / "out" / "tiny-2b-it" / "2-res-tk"
    assert json.loads((folder / "release.jsonl").read_text())["creatorName"] == "Someone"
    assert {row["creatorId"] for row in rows(folder, "features")} == {"c1"}
    put(store, "two", dictionary("topk", k=4))
    encode(store, "both", ("one", "two"))
    with pytest.raises(ConfigError, match="one and two would both be tiny-2b-it/2-res-tk"):
        publish_neuronpedia(store, tmp_path / "clash", QUIET, labels=labels)


def test_the_vector_of_a_transcoder_is_filed_where_it_writes(store: Store, tmp_path: Path) -> None:
    put(store, "tc", dictionary("topk", d_out=9, k=4), "blocks.2.hook_mlp_in", hook_name_out="blocks.2.hook_mlp_out")
    encode(store, "tc-run", ("tc",))
    publish_neuronpedia(store, tmp_path / "out", QUIET, dictionaries=["tc"])
    first = rows(tmp_path / "out" / "tiny-it" / "2-tc", "features")[0]
    assert (first["hookName"], len(first["vector"])) == ("blocks.2.hook_mlp_out", 9)


def test_what_is_missing_is_said_with_the_command_that_mends_it(empty: Store, tmp_path: Path) -> None:
    def attempt(error: type[Exception], match: str, **named: Any) -> None:
        with pytest.raises(error, match=match):
            publish_neuronpedia(empty, tmp_path / "out", QUIET, **named)
        assert [p.name for p in tmp_path.iterdir()] == ["store"]

    attempt(ConfigError, "sparse-rep train")
    put(empty, "one", dictionary("topk", k=4))
    attempt(StoreError, "sparse-rep extract --store .* --dictionaries one")
    run = encode(empty, sealed=False)
    attempt(StoreError, f"sparse-rep seal --store .* {run}")
    attempt(StoreError, f"run {run} is not sealed yet", run=run)
    attempt(StoreError, "there is no run 'other'", run="other")
    put(empty, "two", dictionary("topk", k=4))
    attempt(StoreError, f"run {run} has no codes of dictionary two", dictionaries=["two"], run=run)
    put(empty, "nowhere", dictionary("topk", k=4), hook="hook_embed")
    attempt(ConfigError, "names no layer", dictionaries=["nowhere"])


def test_an_export_that_fails_half_way_leaves_nothing(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real: Callable[..., int] = neuronpedia._copy
    calls: Iterator[int] = iter(range(99))

    def failing(*args: Any) -> int:
        if next(calls) == 3:
            raise duckdb.IOException("Could not write file: No space left on device")
        return real(*args)

    monkeypatch.setattr(neuronpedia, "_copy", failing)
    with pytest.raises(StoreError, match="no room left"):
        publish_neuronpedia(store, tmp_path / "out", QUIET)
    assert [p.name for p in tmp_path.iterdir()] == ["store"]
