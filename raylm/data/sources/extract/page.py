"""Takes the bytes of a page, leaves its main text as an extraction card finds it."""

from __future__ import annotations

import codecs
from typing import Any

from raylm.core.errors import DataError

_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))


def main_text(card: Any, page: bytes, charset: str | None = None) -> str:
    """The main text of a page.

    Args:
        card: its `extract(html)` gives the text.
        charset: what the server said.

    Raises:
        DataError: `what` is the reason to count: no_main_text or extraction_failed.
    """
    text = card.extract(decoded(page, charset))
    if not text or text.isspace():
        raise DataError("no_main_text")
    return text


def decoded(page: bytes, charset: str | None) -> str:
    """A page as text. First a byte order mark counts, then what the server said, the page's own `meta`, and statistics
    of its bytes: the order of https://html.spec.whatwg.org/multipage/parsing.html#determining-the-character-encoding.
    Bytes that are wrong in that encoding are tried as UTF-8 and Windows-1252, and replaced when they are neither.
    """
    from resiliparse.parse.encoding import bytes_to_str, detect_encoding, map_encoding_to_html5

    said = next((name for mark, name in _MARKS if page.startswith(mark)), None)
    if said is None and charset:
        said = map_encoding_to_html5(charset, fallback_utf8=False)
    try:
        return bytes_to_str(page, said or detect_encoding(page, from_html_meta=True) or "utf-8", errors="replace")
    except LookupError:
        # a name that the web knows and Python does not
        return bytes_to_str(page, "utf-8", errors="replace")
