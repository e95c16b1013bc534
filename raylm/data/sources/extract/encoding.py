"""Decodes web pages: finds the encoding of a page from its bytes and from what was declared.

bytes -> mark | UTF-16 | UTF-8 -> what was declared, where the text it gives reads like a language -> statistics, likewise
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator

from raylm.core.errors import DataError
from raylm.data.sources.extract.letters import readable

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# what the web means by a name is larger than the standard of that name (https://encoding.spec.whatwg.org)
_LARGER = {
    "euc_kr": "cp949",
    "gbk": "gb18030",
    "gb2312": "gb18030",
    "shift_jis": "cp932",
    "big5": "big5hkscs",
    "iso8859-1": "cp1252",
    "iso8859-9": "cp1254",
    "iso8859-11": "cp874",
    "koi8-r": "koi8_u",
}
# encodings in bytes below 128, which any other decoder takes for ASCII
_SEVEN_BITS = {"iso-2022-kr": "iso2022_kr", "hz-gb-2312": "hz", "utf-7": "utf-7", "iso-2022-jp": "iso2022_jp_ext"}
_STATISTICS = (
    *("cp949", "gb18030", "big5hkscs", "cp932", "euc_jp", "cp1252", "cp1251", "koi8_u", "cp1250", "iso8859_2"),
    *("cp1254", "cp1257", "cp1253", "iso8859_7", "cp1255", "cp1256", "iso8859_6", "cp874", "iso8859_5", "cp866"),
    *("mac_cyrillic", "iso8859_15", "cp1258"),
)
_PAIRS = frozenset({"cp949", "gb18030", "big5hkscs", "euc_jp"})
_HEAD, _FEW = 4096, 30
_HIGH = bytes(range(0x80, 0x100))
_LANGUAGE = re.compile(rb"<html[^>]{0,400}?\blang\s*=\s*[\"']?([A-Za-z]{2})", re.IGNORECASE)
# by the page's language, the usual encoding of pages that declare none
_OF_LANGUAGE = {
    **dict.fromkeys(("pl", "cs", "sk", "hu", "sl", "hr", "ro", "bs", "sq"), "cp1250"),
    **dict.fromkeys(("lt", "lv", "et"), "cp1257"),
    **dict.fromkeys(("tr", "az", "ku"), "cp1254"),
    "vi": "cp1258",
}
# a text that reads worse than that in its best encoding is none; a better encoding must be better by so much;
# what was declared is compared with others where it reads worse than that
_READABLE, _BETTER, _WELL = 0.5, 0.06, 0.92


def decoded(page: bytes, charset: str | None = None) -> str:
    """A page as text; a character that is cut off at its end is left out.

    A byte order mark decides. Bytes that are valid UTF-8 are UTF-8, whatever was declared: text of another encoding hardly
    ever is by chance. Else the server's charset counts, then the page's own `meta`, where the bytes are valid in that
    encoding and the text reads like a language; then the encoding whose text reads best.

    Raises:
        DataError: `undecodable`: no encoding gives a text, or UTF-8 has broken characters.
    """
    for mark, codec in _MARKS:
        if page.startswith(mark):
            return _required(_strict(page[len(mark) :], codec))
    if b"\0" in page[:_HEAD]:
        return _required(_wide(page))
    labels = [label for label in (charset, _meta(page)) if label]
    if page.isascii():
        return _seven_bits(page, labels)
    text = _strict(page, "utf-8")
    if text is not None:
        return text
    damaged = page.decode("utf-8", "replace")
    broken = damaged.count("\ufffd")
    # of text in another encoding some pairs are sound by chance, far from half
    if sum(char > "\x7f" for char in damaged) >= 2 * broken:
        raise DataError("undecodable", next="it is UTF-8 with broken characters")
    return _required(_most_readable(page, list(_declared(labels))))


def _required(text: str | None) -> str:
    if text is None or "\0" in text:
        raise DataError("undecodable", next="no encoding gives a text of these bytes")
    return text


def _strict(page: bytes, codec: str) -> str | None:
    """The text, less half a character at its end; None where a byte is wrong."""
    try:
        return codecs.getincrementaldecoder(codec)("strict").decode(page, final=False)
    except UnicodeDecodeError:
        return None


def _wide(page: bytes) -> str | None:
    """UTF-16 without a mark: every second byte of markup is zero. Single zeros in another text are none of its letters."""
    even, odd = page[:_HEAD:2].count(0), page[1:_HEAD:2].count(0)
    least = min(len(page), _HEAD) // 8
    if max(even, odd) > max(least, 4 * min(even, odd)):
        return _strict(page, "utf-16-le" if odd > even else "utf-16-be")
    return None if min(even, odd) > least else decoded(page.replace(b"\0", b""))


def _seven_bits(page: bytes, labels: list[str]) -> str:
    """ASCII, or an encoding that hides in it."""
    codec = next((_SEVEN_BITS[label.lower()] for label in labels if label.lower() in _SEVEN_BITS), None)
    if b"\x1b$" in page or b"\x1b(" in page:
        codec = "iso2022_kr" if b"\x1b$)C" in page else codec or "iso2022_jp_ext"
    return page.decode() if codec is None else _required(_strict(page, codec))


def _meta(page: bytes) -> str | None:
    """The charset that the page declares in its first kilobytes."""
    found = re.search(
        rb"<(?:meta|\?xml)[^>]{0,300}?(?:charset|encoding)\s*=\s*[\"']?\s*([\w.:\-]{2,40})", page[:_HEAD], re.IGNORECASE
    )
    return found[1].decode() if found else None


def _declared(labels: list[str]) -> Iterator[str]:
    """The codecs of declared charsets; UTF-8 is ruled out already."""
    from resiliparse.parse.encoding import map_encoding_to_html5

    for label in labels:
        codec = map_encoding_to_html5(label, fallback_utf8=False)
        codec = _LARGER.get(codec or "", codec)
        try:
            if codec and codecs.lookup(codec).name not in ("utf-8", "ascii"):
                yield codec
        except LookupError:
            continue  # a name that the web knows and Python does not


def _most_readable(page: bytes, declared: list[str]) -> str | None:
    """The text in the encoding that was declared, if it reads well, or about as well as in any; else in the best one, of
    about equal ones the language's own, then the detector's guess. None where no text reads like one."""
    from resiliparse.parse.encoding import detect_encoding

    texts = [(codec, text, readable(text, codec)) for codec in declared if (text := _strict(page, codec)) is not None]
    language = _LANGUAGE.search(page[:_HEAD])
    likely = _OF_LANGUAGE.get(language[1].decode().lower()) if language else None
    if well := [text for codec, text, score in texts if score >= _WELL and not (likely and codec == "cp1252")]:
        return well[0]
    guess = detect_encoding(page, from_html_meta=False) or ""
    guess = _LARGER.get(guess, guess)
    order = [likely or "", *declared, guess if guess in _known() else "", *_STATISTICS]
    pairs = _of_pairs(page, texts)
    order = [codec for codec in order if codec and (pairs is None or codec in _PAIRS or codec == "cp932")]
    # a heading or a name says little about which characters are frequent
    best, most = (pairs[0], _WELL - _BETTER) if pairs and pairs[1] < _FEW else (None, _READABLE - _BETTER)
    for codec in dict.fromkeys(order):
        text = _strict(page, codec)
        if text is not None and (score := readable(text, codec)) > most + _BETTER:
            best, most = text, score
    return best


def _of_pairs(page: bytes, texts: list[tuple[str, str, float]]) -> tuple[str, int] | None:
    """The text, and how many characters it has beyond ASCII, in a declared encoding of two bytes a character, if pairs are
    what there is: then it is of none that has one. (Where accents pair with the ASCII letter behind them they are none.)"""
    high = len(page) - len(page.translate(None, _HIGH))
    for codec, text, _ in texts:
        wide = sum(char > "\x7f" for char in text)
        if codec in _PAIRS and high >= 1.3 * wide:
            return text, wide
    return None


def _known() -> set[str]:
    """Of the detector's guesses those that are in use, by their names there."""
    return {*_STATISTICS, "iso8859-2", "iso8859-5", "iso8859-7", "iso8859-13"}
