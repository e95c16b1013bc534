"""Takes the bytes of a page, leaves its main text as an extraction card finds it."""

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
        charset: what the server said.

    Raises:
        DataError: `what` is the reason to count: no_main_text, undecodable or extraction_failed.
    """
    text = card.extract(decoded(page, charset))
    if not text or text.isspace():
        raise DataError("no_main_text")
    return sound(text)


def sound(text: str) -> str:
    """The text. Raises DataError where somebody before us read it in a wrong encoding and wrote U+FFFD for its letters."""
    if text.count("\ufffd") > _LOST_SHARE * len(text):
        raise DataError("undecodable")
    return text
