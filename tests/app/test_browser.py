"""The whole way once, in a real browser against the real server: table, link, coloured tokens, tooltip, keys."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def address(serve: Callable[[Path], str], store_path: Path) -> str:
    """The app as a user starts it."""
    return serve(store_path)


def test_from_the_table_to_a_token_and_back(address: str, browser, tmp_path: Path):
    page = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme="light")
    elsewhere: list[str] = []
    page.on(
        "request",
        lambda r: elsewhere.append(r.url) if not r.url.startswith((address, "data:", "blob:", "ws:")) else None,
    )
    page.goto(f"{address}/features?dictionary=detectors-24")
    page.locator("table.features a", has_text=re.compile("^4$")).click()
    page.get_by_role("heading", name="What makes feature 4 fire?").wait_for()
    assert "feature=4" in page.url

    token = page.locator("ol.examples mark.at").first
    assert token.inner_text().strip() == "self"
    colour = token.evaluate("e => getComputedStyle(e).backgroundColor")
    assert colour not in ("rgba(0, 0, 0, 0)", "transparent")
    token.hover()
    tip = page.locator("#sr-tip")
    tip.wait_for(state="visible")
    assert re.search(r"activation [\d.]+\ntoken \d+ · position [\d,]+", tip.inner_text())
    page.mouse.move(0, 0)
    token.focus()
    tip.wait_for(state="visible")
    assert token.get_attribute("aria-describedby") == "sr-tip"
    page.screenshot(path=tmp_path / "feature.png", full_page=True)

    page.keyboard.press("ArrowRight")
    page.get_by_role("heading", name="What makes feature 5 fire?").wait_for()
    page.go_back()
    page.get_by_role("heading", name="What makes feature 4 fire?").wait_for()
    page.go_back()
    page.get_by_role("heading", name="Which features does this dictionary have?").wait_for()
    assert elsewhere == [], "the app works without the internet"
    assert (tmp_path / "feature.png").stat().st_size > 20_000


@pytest.mark.parametrize(
    ("scheme", "pages"), [("light", ("", "features", "feature", "read", "sql")), ("dark", ("feature",))]
)
def test_pages_fit_a_phone_in_both_themes(address: str, browser, tmp_path: Path, scheme: str, pages: tuple[str, ...]):
    page = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme=scheme)
    for where in pages:
        page.goto(f"{address}/{where}")
        page.get_by_role("heading", level=1).wait_for()
        page.locator(".st-key-shell *").first.wait_for(state="attached")
        main = page.locator("[data-testid='stMain']")
        assert main.evaluate("e => e.scrollWidth - e.clientWidth") <= 0, f"{where or 'overview'} scrolls sideways"
        ground = page.locator("[data-testid='stApp']").evaluate("e => getComputedStyle(e).backgroundColor")
        assert ground == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(16, 21, 27)")
        page.screenshot(path=tmp_path / f"{where or 'overview'}-{scheme}.png")


def test_a_query_is_run_shared_by_its_address_and_saved(address: str, browser):
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(f"{address}/sql")
    page.get_by_text("Answer").wait_for()
    page.locator("textarea").fill("SELECT 6 * 7 AS x, '<b>' AS y")
    page.keyboard.press("Control+Enter")
    page.get_by_text("1 row in").wait_for()
    assert "SELECT+6" in page.url
    with page.expect_download() as download:
        page.locator("[data-testid='stDownloadButton'] button").click()
    assert Path(download.value.path()).read_text("utf-8").split() == ['"x","y"', '42,"<b>"']


def test_sorting_keeps_the_search_and_the_dictionary_in_the_address(address: str, browser):
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(f"{address}/features?q=self&dictionary=detectors-24")
    page.locator("table.features th a", has_text="max").click()
    page.locator("th[aria-sort]", has_text="max").wait_for()
    assert {"q=self", "dictionary=detectors-24", "sort=max"} <= set(page.url.split("?")[1].split("&"))
