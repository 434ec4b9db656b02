"""Addresses within the app. Every view is a URL, so that a link in a paper or a chat opens what its sender saw."""

from __future__ import annotations

from urllib.parse import quote, urlencode


def href(page: str, **params: object) -> str:
    """A relative address, e.g. `feature?run=r&dictionary=d&feature=7`; parameters that are None are left out.

    Relative to the app's root, so it works behind a proxy that serves the app under a path of its own.
    """
    given = [(key, str(value)) for key, value in params.items() if value is not None]
    return page + (f"?{urlencode(given, quote_via=quote)}" if given else "")


def feature(run: str, dictionary: str, number: int) -> str:
    """The page of one feature."""
    return href("feature", run=run, dictionary=dictionary, feature=number)


def whole_number(text: str | None, largest: int) -> int | None:
    """The number a URL holds, None unless it is a plain 0..largest: a URL is typed by hand as often as not."""
    if text is None or not text.isascii() or not text.isdigit() or len(text) > 12:
        return None
    return int(text) if int(text) <= largest else None
