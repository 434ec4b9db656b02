"""What each page says, driven without a browser: addresses in, elements out."""

import json
import re
from html import unescape

import pytest
from streamlit.testing.v1 import AppTest

from sparse_rep.store import Store


def html(at: AppTest) -> str:
    return "\n".join(block.value for block in at.get("html") if "<style>" not in block.value)


def text(at: AppTest) -> str:
    return unescape(re.sub(r"<[^>]+>", " ", html(at)))


def alert(at: AppTest) -> str:
    found = re.search(r'role="alert">(.*?)</div>', html(at), re.DOTALL)
    return unescape(found[1]) if found else ""


def links(at: AppTest) -> list[str]:
    return [unescape(link) for link in re.findall(r'href="([^"]*)"', html(at))]


def test_the_entry_point_opens_on_the_overview(store_path, monkeypatch):
    from importlib.resources import files

    monkeypatch.setenv("SPARSE_REP_STORE", str(store_path))
    at = AppTest.from_file(str(files("sparse_rep.app.entry").joinpath("main.py")), default_timeout=30).run()
    assert not at.exception
    assert "What is in this store?" in text(at)


def test_the_overview_shows_what_the_store_knows_of_each_dictionary(open_page, store_path):
    at = open_page("overview")
    words = text(at)
    stored = Store(store_path).query(
        "SELECT value FROM metrics WHERE dictionary_id = 'detectors-24' AND metric = 'explained_variance' "
        "AND split = 'heldout' AND step IS NULL AND domain IS NULL"
    )
    assert f"{100 * stored['value'][0].as_py():.1f} %" in words
    assert "a regular expression, no network" in words
    assert "detect-dddddddd" in words
    assert "sealed" in words
    assert "stdlib-and-readmes" in words
    assert any(link.startswith("features?run=detect-dddddddd&dictionary=detectors-8") for link in links(at))


@pytest.mark.parametrize("page", ["overview", "features", "feature", "read"])
def test_an_empty_store_says_which_command_fills_it(open_page, tmp_path, page):
    Store(tmp_path / "empty", create=True)
    at = open_page(page, store=tmp_path / "empty")
    assert re.search(r"sparse-rep (demo|extract) --store", text(at))


def test_a_folder_that_is_no_store_is_one_sentence(open_page, tmp_path):
    at = open_page("overview", store=tmp_path)
    assert "is not a store" in text(at)


def test_a_damaged_run_is_named_with_the_reason_and_the_others_still_open(open_page, tmp_path, detectors):
    path = tmp_path / "store"
    detectors.build(path)
    manifest = path / "runs" / "fit-aaaaaaaa" / "manifest.json"
    manifest.write_text("{ not json", "utf-8")
    at = open_page("overview", store=path)
    assert "fit-aaaaaaaa is damaged" in alert(at)
    assert "cannot be read" in alert(at)
    assert "detect-dddddddd" in text(at)


def test_every_row_of_the_table_links_to_its_feature(open_page):
    at = open_page("features", dictionary="detectors-24")
    found = {link for link in links(at) if link.startswith("feature?")}
    assert found == {f"feature?run=detect-dddddddd&dictionary=detectors-24&feature={n}" for n in range(24)}


def test_searching_a_token_finds_the_features_that_fire_on_it(open_page):
    at = open_page("features", dictionary="detectors-24", q="self")
    first = next(link for link in links(at) if link.startswith("feature?"))
    assert first.endswith("feature=4"), "the detector of `self` is the best match"


def test_a_token_that_no_feature_prefers_says_so_and_leads_to_the_raw_codes(open_page):
    at = open_page("features", dictionary="detectors-24", q="zzzz")
    assert "No feature passes this filter" in text(at)
    assert any(link.startswith("sql?sql=") and "zzzz" in link for link in links(at))


def test_a_number_sign_jumps_to_one_feature(open_page):
    at = open_page("features", dictionary="detectors-24", q="#7")
    assert [link for link in links(at) if link.startswith("feature?")] == [
        "feature?run=detect-dddddddd&dictionary=detectors-24&feature=7"
    ]


@pytest.mark.parametrize(("show", "expected"), [("dead", {14}), ("dense", {11, 16}), ("rare", set())])
def test_the_filter_keeps_what_its_name_says(open_page, show, expected):
    at = open_page("features", dictionary="detectors-24", show=show)
    shown = {int(link.rsplit("=", 1)[1]) for link in links(at) if link.startswith("feature?")}
    assert shown == expected


def test_the_table_is_sorted_in_sql_in_both_directions(open_page):
    def order(**params: str) -> list[int]:
        at = open_page("features", dictionary="detectors-8", **params)
        return [int(link.rsplit("=", 1)[1]) for link in links(at) if link.startswith("feature?")]

    up, down = order(sort="max", order="asc"), order(sort="max", order="desc")
    assert up != down
    assert order(sort="feature", order="asc") == list(range(8))
    assert order(sort="no-such-column") == order(sort="density")


def test_preferring_a_domain_ranks_by_how_much_denser_a_feature_is_there(open_page):
    at = open_page("features", dictionary="detectors-24", domain="stdlib")
    heads = re.findall(r"<th[^>]*aria-sort[^>]*>.*?</th>", html(at))
    assert len(heads) == 1
    assert "times denser" in heads[0]


def test_the_address_picks_the_feature(open_page):
    at = open_page("feature", dictionary="detectors-24", feature="4")
    assert "What makes feature 4 fire?" in text(at)
    assert re.search(r'<mark tabindex="0" class="h\d+ at"[^>]*> ?self</mark>', html(at))


def test_an_address_without_a_feature_opens_one_that_fires(open_page):
    at = open_page("feature")
    assert re.search(r"What makes feature \d+ fire", text(at))
    assert "<mark" in html(at)


@pytest.mark.parametrize("asked", ["24", "-1", "12x", "999999999999999999999"])
def test_a_feature_that_the_dictionary_lacks_is_named_with_the_range(open_page, asked):
    at = open_page("feature", dictionary="detectors-24", feature=asked)
    assert f"There is no feature '{asked}' here" in text(at)
    assert "features 0 to 23" in text(at)


def test_an_unknown_dictionary_is_named_beside_those_there_are(open_page):
    at = open_page("feature", dictionary="<b>nope</b>", feature="1")
    assert "<b>nope</b>" in text(at)
    assert "<b>nope</b>" not in html(at)
    assert any("dictionary=detectors-24" in link for link in links(at))


def test_a_dead_feature_has_a_page_of_its_own(open_page):
    at = open_page("feature", dictionary="detectors-24", feature="14")
    assert "Feature 14 never fired" in text(at)
    assert not at.get("plotly_chart")


def test_context_and_view_change_the_examples(open_page):
    at = open_page("feature", dictionary="detectors-24", feature="0")
    short = html(at)
    at.segmented_control(key="context").set_value("Full").run()
    assert not at.exception
    assert len(html(at)) > 2 * len(short)
    at.segmented_control(key="context").set_value("Short")
    at.segmented_control(key="examples").set_value("Strongest").run()
    assert not at.exception
    examples = [block.value for block in at.get("html") if 'class="examples"' in block.value]
    assert len(examples) == 1
    assert examples[0].count("<li") <= 20


def test_no_block_of_a_page_outgrows_what_a_browser_takes_lightly(open_page):
    at = open_page("feature", dictionary="detectors-24", feature="16")
    at.segmented_control(key="context").set_value("Full")
    at.segmented_control(key="examples").set_value("Every interval").run()
    assert not at.exception
    assert max(len(block.value) for block in at.get("html")) < 300 * 1024
    assert "left out to keep the page light" in text(at)


def test_the_shown_sql_gives_the_rows_of_the_view(open_page, store_path):
    at = open_page("feature", dictionary="detectors-24", feature="0")
    store = Store(store_path)
    shown = [block.value for block in at.get("code")]
    assert len(shown) >= 7
    for sql in shown:
        assert "$" not in sql
        assert store.query(sql).num_rows > 0, sql


def test_next_and_previous_step_by_one_and_stop_at_the_ends(open_page):
    at = open_page("feature", dictionary="detectors-24", feature="0")
    assert 'aria-disabled="true">previous' in html(at)
    assert re.search(r'feature=1" data-key="ArrowRight"', html(at))
    at = open_page("feature", dictionary="detectors-24", feature="23")
    assert 'aria-disabled="true">next' in html(at)


def test_provenance_opens_on_demand(open_page):
    at = open_page("feature", dictionary="detectors-24", feature="0")
    assert "Config hash" not in text(at)
    at.session_state["provenance"] = True
    at.run()
    assert "Config hash" in text(at)
    assert "d" * 64 in text(at)


def test_a_document_shows_the_feature_of_each_token(open_page, store_path):
    store = Store(store_path)
    (tok,) = store.query("SELECT min(tok) AS tok FROM acts WHERE dictionary_id = 'detectors-24' AND feature = 4")[
        "tok"
    ].to_pylist()
    doc = store.query("SELECT doc, source FROM docs WHERE $tok >= tok_lo AND $tok < tok_hi", tok=tok).to_pylist()[0]
    at = open_page("read", dictionary="detectors-24", doc=str(doc["doc"]), at=str(tok))
    assert doc["source"] in text(at)
    found = re.search(r'<a href="[^"]*feature=4" class="h\d+(?: c\d)? at" data-tip="([^"]*)"> ?self</a>', html(at))
    assert found, "the token is coloured by its detector, linked to it and underlined"
    assert "feature 4: " in found[1]


def test_a_document_that_is_not_there_is_named(open_page):
    assert "There is no document '99'" in text(open_page("read", dictionary="detectors-24", doc="99"))


def test_an_example_leads_to_its_place_in_the_document(open_page):
    at = open_page("feature", dictionary="detectors-24", feature="4")
    address = next(link for link in links(at) if link.startswith("read?"))
    asked = dict(pair.split("=") for pair in address.split("?")[1].split("&"))
    opened = open_page("read", **asked)
    assert re.search(r'class="[^"]*\bat\b[^"]*"[^>]*> ?self<', html(opened))


def test_a_query_in_the_address_is_answered(open_page):
    at = open_page("sql", sql="SELECT 41 + 1 AS answer")
    assert at.dataframe[0].value["answer"].tolist() == [42]
    assert "1 row in" in text(at)


def test_a_longer_answer_is_cut_and_says_so(open_page):
    at = open_page("sql", sql="SELECT range AS i FROM range(50000)")
    assert len(at.dataframe[0].value) == 2000
    assert "cut at 10,000" in text(at)
    assert "first 2,000 shown" in text(at)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM no_such_table",
        "SELEC 1",
        "COPY (SELECT 1) TO '{outside}'",
        "SELECT * FROM read_csv('/etc/passwd')",
        "DROP VIEW acts",
    ],
)
def test_a_query_that_is_wrong_or_not_allowed_is_refused_in_a_sentence(open_page, tmp_path, sql):
    outside = tmp_path / "leak.csv"
    at = open_page("sql", sql=sql.format(outside=outside))
    assert alert(at)
    assert "Traceback" not in alert(at)
    assert not at.dataframe
    assert not outside.exists()


def test_a_query_without_end_is_stopped(open_page, monkeypatch):
    monkeypatch.setattr("sparse_rep.app.data.SQL_SECONDS", 1)
    at = open_page(
        "sql", sql="SELECT count(*) FROM range(100000000) a, range(100000000) b WHERE a.range * b.range % 7 = 3"
    )
    assert "1 s" in alert(at)


def test_the_schema_browser_has_every_table_with_its_meaning(open_page):
    at = open_page("sql")
    words = text(at)
    from sparse_rep.store.schema import tables

    for name, table in tables().items():
        assert name in words
        assert re.sub(r"\s+", " ", table.note) in re.sub(r"\s+", " ", words)


def test_what_data_says_is_never_markup(open_page, tmp_path, detectors):
    """A model, a hook and a note that are HTML, as a cfg.json from elsewhere may hold."""
    path = tmp_path / "store"
    detectors.build(path)
    evil = "<img src=x onerror=alert(1)>"
    cfg = path / "dictionaries" / "detectors-24" / "cfg.json"
    loaded = json.loads(cfg.read_text("utf-8"))
    loaded["metadata"] |= {"model_name": evil, "hook_name": evil, "sparse_rep_model_note": evil}
    cfg.write_text(json.dumps(loaded), "utf-8")
    for page in ("overview", "features", "feature", "read"):
        assert "<img" not in html(open_page(page, store=path, dictionary="detectors-24"))


def test_choosing_another_dictionary_moves_the_address_and_keeps_the_search(open_page):
    at = open_page("features", dictionary="detectors-24", q="self")
    at.selectbox(key="subject").set_value(("detect-dddddddd", "detectors-8")).run()
    assert not at.exception
    assert "feature?run=detect-dddddddd&dictionary=detectors-8&feature=4" in links(at)
    assert at.text_input(key="q").value == "self"


def test_choosing_another_dictionary_on_a_feature_opens_a_feature_of_that_one(open_page):
    at = open_page("feature", dictionary="detectors-24", feature="20")
    at.selectbox(key="subject").set_value(("detect-dddddddd", "detectors-8")).run()
    assert not at.exception
    assert re.search(r"What makes feature [0-7] fire", text(at))


def test_changing_the_filter_goes_back_to_the_first_page(open_page):
    at = open_page("features", dictionary="detectors-24", page="3")
    at.segmented_control(key="show").set_value("dense").run()
    assert not at.exception
    assert len([link for link in links(at) if link.startswith("feature?")]) == 2
