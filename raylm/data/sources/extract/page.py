"""The main text of a web page given as bytes."""

from __future__ import annotations

from typing import Any

from raylm.core.errors import DataError
from raylm.data.sources.extract.encoding import decoded

# of a text's characters, at most: more of them were lost before it came here
_LOST_SHARE = 0.01


def main_text(card: Any, page: bytes, charset: str | None = None) -> str:
    """The main text of a page.

    Args:
        card: its `extract(html)` gives the text.
        charset: declared by the server.

    Raises:
        DataError: `what` is the reason to count: no_main_text, undecodable or extraction_failed.
    """
    text = card.extract(decoded(page, charset))
    if not text or text.isspace():
        raise DataError("no_main_text")
    return sound(text)


def sound(text: str) -> str:
    """The text. Raises DataError where it was decoded wrongly before and has U+FFFD for its letters."""
    if text.count("\ufffd") > _LOST_SHARE * len(text):
        raise DataError("undecodable")
    return text
