"""The fast extractor: its options reach the library, and what the library says is left as it is."""

from resiliparse.extract.html2text import extract_plain_text

from raylm.data.sources.extract.resiliparse import Resiliparse

PAGE = """<html><body><nav>menu</nav><main><p>Main text.</p>
<ul><li>one thing that is worth a line</li></ul><img alt="a picture"></main>
<section class="comments"><p>I was first.</p></section><footer>imprint</footer></body></html>"""


def test_the_main_text_is_what_the_library_finds():
    text = Resiliparse().extract(PAGE)
    assert text == extract_plain_text(PAGE, main_content=True, alt_texts=False, comments=False)
    assert "Main text." in text and "menu" not in text and "imprint" not in text and "picture" not in text


def test_options_reach_it():
    assert "menu" in Resiliparse(main_content=False).extract(PAGE)
    assert "a picture" in Resiliparse(alt_texts=True).extract(PAGE)
    assert "I was first." in Resiliparse(comments=True).extract(PAGE)
    assert "•" in Resiliparse(main_content=False).extract(PAGE)
    assert "•" not in Resiliparse(main_content=False, list_bullets=False).extract(PAGE)


def test_nothing_gives_nothing():
    assert Resiliparse().extract("") == "" and Resiliparse().extract("<" * 10_000) is not None
