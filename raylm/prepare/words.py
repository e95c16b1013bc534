"""Words of a text as lists and evaluation sets are compared."""

from __future__ import annotations

import re

# letters and digits; Han, kana and Hangul are written without spaces, so each sign is a word; so is an operator, or one sum
# would be another
_WORD = re.compile(
    r"[+<>=^\u00b1\u00d7\u00f7\u2212\u2264\u2265\u2260]|[-*/](?=\s?[\d(])|"
    r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W_\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+(?:'[^\W_]+)*"
)


def words_of(text: str) -> list[str]:
    """Words in lower case, straight apostrophes inside them; signs between words are left out, but for operators."""
    return _WORD.findall(text.lower().replace("\u2019", "'"))
