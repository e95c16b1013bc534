"""The exact extractor: its options reach the library, and pages without text stay quiet."""

import pytest

from raylm.data.sources.extract.trafilatura import Trafilatura

TEXT = "A paragraph that is long enough for every rule to take it for the text of an article, by far. " * 4
PAGE = f"""<html><body><nav><a href="/">menu</a></nav><article><h1>Title</h1><p>{TEXT}</p>
<table><tr><td>a cell</td><td>another</td></tr></table></article>
<div class="comments"><p>I was first, and I have a lot to say about this here article.</p></div></body></html>"""


@pytest.mark.parametrize("favor", ["precision", "balance", "recall"])
def test_the_article_is_found(favor):
    text = Trafilatura(favor=favor).extract(PAGE)
    assert TEXT.strip() in text and "menu" not in text and "I was first" not in text


def test_options_reach_it():
    assert "a cell" in Trafilatura(favor="balance").extract(PAGE)
    assert "a cell" not in Trafilatura(favor="balance", tables=False).extract(PAGE)
    assert TEXT.strip() in Trafilatura(fast=True).extract(PAGE)


def test_a_page_without_text_is_empty_and_quiet(caplog):
    for page in ("", "<html></html>", "\0\1\2", "plain words"):
        assert isinstance(Trafilatura().extract(page), str)
    assert not caplog.records
