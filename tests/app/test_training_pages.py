"""The pages about training, on the detectors' store and on figures small enough to check by eye."""

import json
import re
from html import unescape

import pytest

from sparse_rep.app.charts.tradeoff import tradeoff
from sparse_rep.store import Store


def words(at) -> str:
    return unescape(" ".join(block.value for block in at.get("html") if "<style>" not in block.value))


def charts(at) -> list[dict]:
    return [json.loads(chart.proto.spec) for chart in at.get("plotly_chart")]


def test_curves_of_all_dictionaries_of_a_run_are_overlaid(open_page):
    at = open_page("training")
    (curve,) = charts(at)
    assert [trace["name"] for trace in curve["data"]] == ["detectors-24", "detectors-8"]
    assert len(curve["data"][0]["x"]) == 24
    assert curve["layout"]["yaxis"]["title"]["text"] == "explained variance"
    assert not curve["layout"]["showlegend"], "the page has one for all charts"
    assert re.findall(r'<i style="background:(#\w+)"></i>([\w-]+)', words(at)) == [
        (trace["line"]["color"], trace["name"]) for trace in curve["data"]
    ]


def test_the_address_chooses_whose_curves_are_drawn(open_page):
    (curve,) = charts(open_page("training", dictionary="detectors-8"))
    assert [trace["name"] for trace in curve["data"]] == ["detectors-8"]


def test_every_trained_dictionary_has_its_held_out_figures_and_a_link(open_page):
    page = words(open_page("training"))
    assert "features?dictionary=detectors-24" in page
    assert page.count('class="badge') == 2


def test_dictionaries_of_one_setting_share_a_chart_and_others_do_not_join_it(open_page, tmp_path, detectors):
    path = tmp_path / "store"
    store = Store(path, create=True)
    rows = {"wide-8": ("topk", 8.0, 0.7, 64), "wide-16": ("topk", 16.0, 0.8, 64), "wide-l1": ("standard", 9.0, 0.6, 64)}
    rows["narrow-8"] = ("topk", 8.0, 0.5, 32)
    run = store.open_run(
        kind="train",
        name="sweep",
        config={"n_tokens": 1000, "batch_tokens": 10},
        config_hash="b" * 64,
        corpus_id="text",
    )
    columns = {name: [] for name in ("dictionary_id", "split", "domain", "step", "metric", "value")}
    with run:
        for name, (kind, l0, explained, m) in rows.items():
            folder = store.dictionary_path(name)
            folder.mkdir(parents=True)
            metadata = {
                "model_name": "a model",
                "hook_name": "blocks.1.hook_resid_post",
                "sparse_rep_run_id": run.run_id,
            }
            cfg = {"architecture": kind, "d_in": 8, "d_sae": m, "metadata": metadata}
            (folder / "cfg.json").write_text(json.dumps(cfg))
            for metric, value in (("l0", l0), ("explained_variance", explained), ("ce_recovered", explained + 0.1)):
                for column, cell in zip(columns, (name, "heldout", None, None, metric, value), strict=True):
                    columns[column].append(cell)
        run.write_table("metrics", columns)
        run.finish()
    at = open_page("tradeoff", store=path)
    setting = next(box.value for box in at.get("selectbox") or at.get("segmented_control") or at.get("button_group"))
    explained, recovered = charts(at)
    wide = "64 latents" in str(setting)
    assert [trace["name"] for trace in explained["data"]] == (["standard", "topk"] if wide else ["topk"])
    assert explained["layout"]["xaxis"]["type"] == "log"
    assert len(recovered["data"]) == len(explained["data"])


@pytest.mark.parametrize(("page", "command"), [("training", "train"), ("tradeoff", "bench pareto")])
def test_an_empty_store_names_the_command_that_fills_the_page(open_page, tmp_path, page, command):
    Store(tmp_path / "empty", create=True)
    assert f"sparse-rep {command} --store" in words(open_page(page, store=tmp_path / "empty"))


def test_an_architecture_is_a_line_in_order_of_l0_with_a_symbol_of_its_own():
    rows = [
        {"dictionary_id": "a", "kind": "topk", "l0": 32.0, "ev": 0.9},
        {"dictionary_id": "b", "kind": "topk", "l0": 8.0, "ev": 0.7},
        {"dictionary_id": "c", "kind": "jump_relu", "l0": 9.0, "ev": 0.6},
    ]
    first, second = tradeoff(rows, "ev", "explained variance").data
    assert (first.name, second.name) == ("jump relu", "topk")
    assert list(second.x) == [8.0, 32.0]
    assert list(second.y) == [0.7, 0.9]
    assert first.marker.symbol != second.marker.symbol
