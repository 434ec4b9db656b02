"""From the loads of a mixture to the features that fire when one expert is chosen, in a real browser against the real server."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.browser
PAGES = ("routing", "together", "specialisation", "routed", "routers", "expert")


@pytest.fixture(scope="module")
def address(serve: Callable[[Path], str], routing_path: Path) -> str:
    return serve(routing_path)


def test_from_the_loads_to_an_expert_and_its_features(address: str, browser, tmp_path: Path):
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    elsewhere: list[str] = []
    page.on(
        "request",
        lambda r: elsewhere.append(r.url) if not r.url.startswith((address, "data:", "blob:", "ws:")) else None,
    )
    page.goto(f"{address}/routing?run=final-66696e61")
    page.get_by_role("heading", name="Do the experts share the work?").wait_for()
    page.wait_for_function("window.__sparseRepShell")  # before that a link loads the page anew, and keys do nothing
    page.get_by_role("link", name="layer 1 · expert 3").click()
    page.get_by_role("heading", name="What is expert 3 of layer 1 chosen for?").wait_for()
    page.get_by_label("Other experts").wait_for()
    page.keyboard.press("ArrowRight")
    page.get_by_role("heading", name="What is expert 4 of layer 1 chosen for?").wait_for()
    page.go_back()
    page.get_by_role("heading", name="What is expert 3 of layer 1 chosen for?").wait_for()
    row = page.locator("table", has_text="chosen, if it fires").locator("tbody tr").first
    row.locator("td").last.hover()
    tip = page.locator("#sr-tip")
    tip.wait_for(state="visible")
    assert re.match(r"lift [\d.]+ \([\d.]+ to [\d.]+\)\n", tip.inner_text())
    feature = row.locator("a").first
    number = feature.inner_text()
    feature.click()
    page.get_by_role("heading", name=f"What makes feature {number} fire?").wait_for()
    assert "dictionary=detectors-24" in page.url
    page.screenshot(path=tmp_path / "feature.png")
    assert elsewhere == [], "the app works without the internet"


def test_the_layer_is_in_the_address_and_a_token_leads_to_its_expert(address: str, browser):
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(f"{address}/routed?run=final-66696e61&layer=2")
    page.get_by_role("heading", name="json/decoder.py at layer 2").wait_for()
    page.get_by_role("radio", name="layer 3").or_(page.get_by_role("button", name="layer 3")).first.click()
    page.get_by_role("heading", name="json/decoder.py at layer 3").wait_for()
    assert "layer=3" in page.url
    token = page.locator(".tv a").first
    token.hover()
    page.locator("#sr-tip").wait_for(state="visible")
    said = page.locator("#sr-tip").inner_text()
    expert = re.match(r"expert (\d+): weight [\d.]+\nexpert \d+", said)
    assert expert, said
    token.click()
    page.get_by_role("heading", name=f"What is expert {expert[1]} of layer 3 chosen for?").wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_fit_a_phone_in_both_themes(address: str, browser, tmp_path: Path, scheme: str):
    page = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme=scheme)
    for where in PAGES if scheme == "light" else ("together", "expert"):
        page.goto(f"{address}/{where}?run=final-66696e61")
        page.get_by_role("heading", level=1).wait_for()
        page.locator(".st-key-shell *").first.wait_for(state="attached")
        main = page.locator("[data-testid='stMain']")
        assert main.evaluate("e => e.scrollWidth - e.clientWidth") <= 0, f"{where} scrolls sideways"
        assert page.locator("[data-testid='stException']").count() == 0
        page.screenshot(path=tmp_path / f"{where}-{scheme}.png")
