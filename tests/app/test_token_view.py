from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparse_rep.app.charts.palette import CATEGORIES, LEVELS, PAGE, TEXT, strength
from sparse_rep.app.components.stylesheet import stylesheet
from sparse_rep.app.components.token_view import heat_class, token_view


class Parsed(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def test_a_script_token_stays_text():
    html = token_view(['<script>alert("x")</script>'], [1.0], ['"><script>'], ['"><script>'])
    parsed = Parsed(html)
    assert {tag for tag, _ in parsed.tags} == {"div", "a"}
    assert parsed.text == '<script>alert("x")</script>'


@given(st.lists(st.text(max_size=8), max_size=6), st.text(max_size=20))
def test_only_the_components_own_tags_come_out_whatever_the_text(tokens, tip):
    html = token_view(tokens, [1.0] * len(tokens), [tip] * len(tokens))
    assert {tag for tag, _ in Parsed(html).tags} <= {"div", "mark", "i"}


@given(st.lists(st.text("ab \t<&", min_size=1, max_size=6), max_size=6))
def test_copied_text_is_the_text(tokens):
    assert Parsed(token_view(tokens, [0.0] * len(tokens))).text == "".join(tokens)


def test_a_newline_shows_as_a_mark_and_breaks_the_line_only_on_request():
    assert token_view(["\n"], [0.0]) == '<div class="tv"><i class="n"></i></div>'
    assert token_view(["\n"], [0.0], breaks=True) == '<div class="tv"><i class="n"></i>\n</div>'


def test_a_single_space_beside_a_word_is_plain_and_a_run_of_spaces_is_marked():
    assert "<i" not in token_view([" import"], [0.0])
    assert token_view(["    "], [0.0]).count('<i class="s"> </i>') == 4


def test_heat_grows_with_the_value_and_zero_shows_nothing():
    levels = [int(heat_class(v, 10.0).split()[0][1:]) for v in (0.01, 2, 5, 9, 10, 11)]
    assert levels == [1, 2, 5, 9, 10, 10]
    assert heat_class(0.0, 10.0) == ""
    assert heat_class(float("nan"), 10.0) == ""


def test_a_negative_value_takes_the_opposite_hue():
    assert heat_class(-10.0, 10.0) == "h10 c1"
    assert heat_class(10.0, 10.0, category=3) == "h10 c3"


def test_lit_tokens_can_be_reached_by_keyboard_and_unlit_ones_are_skipped():
    tags = Parsed(token_view(["a", "b"], [1.0, 0.0], ["x", "y"])).tags
    assert [(tag, attrs.get("tabindex")) for tag, attrs in tags] == [("div", None), ("mark", "0"), ("span", None)]


def test_rows_that_share_a_scale_can_be_compared():
    assert 'class="h5"' in token_view(["a"], [1.0], scale=2.0)
    assert 'class="h10"' in token_view(["a"], [1.0])


def test_one_value_a_token_is_asked_for():
    with pytest.raises(ValueError, match="2 tokens but 1 values"):
        token_view(["a", "b"], [1.0])


def luminance(rgb: tuple[float, ...]) -> float:
    """WCAG 2.2 relative luminance of an sRGB colour."""
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def rgb(colour: str) -> tuple[float, ...]:
    return tuple(int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("category", range(len(CATEGORIES)))
def test_text_on_any_heat_keeps_the_contrast_of_wcag_aa(theme, category):
    text, page, hue = (rgb(getattr(shade, theme)) for shade in (TEXT, PAGE, CATEGORIES[category]))
    for level in range(1, LEVELS + 1):
        s = strength(level)
        ground = tuple(s * h + (1 - s) * p for h, p in zip(hue, page, strict=True))
        light, dark = sorted((luminance(text), luminance(ground)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, (theme, category, level)


def test_the_style_sheet_fetches_nothing():
    css = stylesheet()
    assert "url(" not in css
    assert "@import" not in css
    assert "http" not in css
