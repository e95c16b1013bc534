"""Bytes to text: mark, server, meta, statistics, in this order."""

import pytest

from raylm.core.errors import DataError
from raylm.data.sources.extract.page import decoded, main_text
from raylm.data.sources.extract.resiliparse import Resiliparse

WORDS = "Grüße, ça coûte 5 €"


@pytest.mark.parametrize(
    ("page", "charset"),
    [
        (WORDS.encode(), "utf-8"),
        (WORDS.encode("cp1252"), "iso-8859-1"),  # the web means Windows-1252 when it says Latin 1
        (b"\xef\xbb\xbf" + WORDS.encode(), "iso-8859-1"),
        (b"\xff\xfe" + WORDS.encode("utf-16-le"), "utf-8"),
        (WORDS.encode(), None),
        (WORDS.encode("cp1252"), "utf-8"),  # wrong: tried as what it may be
        (WORDS.encode(), "no-such-thing"),
    ],
)
def test_words_are_read_as_they_were_meant(page, charset):
    assert decoded(page, charset) == WORDS


def test_the_page_itself_may_say_what_it_is():
    text = f'<html><head><meta charset="shift_jis"></head><body>{"日本語のページ"}</body></html>'
    assert "日本語のページ" in decoded(text.encode("shift_jis"), None)


def test_a_page_without_text_has_its_reason():
    for page in (b"", b"<html><body>   </body></html>"):
        with pytest.raises(DataError) as caught:
            main_text(Resiliparse(), page)
        assert caught.value.what == "no_main_text"
