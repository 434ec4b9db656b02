"""Numbers, addresses and SQL as the app writes them."""

from urllib.parse import parse_qs, urlsplit

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparse_rep.app import links
from sparse_rep.app.sqltext import literal, with_values
from sparse_rep.app.wording import count, percent, shown, significant, size


@pytest.mark.parametrize(
    ("n", "words"),
    [(0, "0"), (9999, "9,999"), (10_000, "10.0 k"), (1_234_567, "1.23 M"), (2.5e9, "2.50 B"), (None, "\u2013")],
)
def test_counts_are_exact_below_ten_thousand_and_short_above(n, words):
    assert count(n) == words


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (0.0, "0"),
        (0.031249, "0.0312"),
        (4.208, "4.21"),
        (187.4, "187"),
        (-0.5, "-0.500"),
        (1e-9, "1.00e-09"),
        (float("nan"), "\u2013"),
    ],
)
def test_three_digits_say_enough(x, words):
    assert significant(x) == words


def test_shares_are_percent_and_sizes_binary():
    assert percent(0.00123) == "0.123 %"
    assert size(1536) == "1.50 KiB"


@pytest.mark.parametrize(
    ("token", "words"), [(" the", "·the"), ("\n", "↵"), ("a\x00b", "a\ufffdb"), (" " * 20, "·\u00d720"), ("", "∅")]
)
def test_a_token_in_running_text_has_nothing_invisible(token, words):
    assert shown(token) == words


@given(st.text(), st.text())
def test_an_address_gives_back_what_it_was_made_of(run, dictionary):
    parts = urlsplit(links.href("feature", run=run, dictionary=dictionary, feature=3, left_out=None))
    assert parts.path == "feature"
    assert parse_qs(parts.query, keep_blank_values=True) == {"run": [run], "dictionary": [dictionary], "feature": ["3"]}


@pytest.mark.parametrize(
    ("asked", "number"),
    [("0", 0), ("9", 9), ("10", None), ("-1", None), ("1e3", None), ("\u0663", None), ("", None), (None, None)],
)
def test_only_a_plain_number_in_range_names_a_feature(asked, number):
    assert links.whole_number(asked, 9) == number


VALUES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**31), 2**31)
    | st.text(st.characters(exclude_characters="\x00", codec="utf-8"))
)


@given(VALUES)
def test_a_value_written_into_sql_is_the_value(value):
    sql = with_values("SELECT $value AS value", {"value": value})
    (answer,) = duckdb.sql(sql).to_arrow_table()["value"].to_pylist()
    assert answer == value


@given(st.lists(st.integers(0, 2**31), min_size=1, max_size=5))
def test_a_list_written_into_sql_is_the_list(values):
    (answer,) = duckdb.sql(with_values("SELECT $v AS v", {"v": values})).to_arrow_table()["v"].to_pylist()
    assert answer == values


def test_dollars_in_strings_names_and_comments_are_left_alone():
    sql = """SELECT '$a', "$a", $a -- $a"""
    assert with_values(sql, {"a": 1}) == """SELECT '$a', "$a", 1 -- $a"""


def test_a_value_without_a_literal_is_our_mistake():
    with pytest.raises(TypeError):
        literal(object())
