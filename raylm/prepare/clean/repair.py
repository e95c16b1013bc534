"""The `repair` cleaner: undoes damage of wrong decoding: mojibake, stray entities, control characters."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any, Literal

from raylm.core.config import Config
from raylm.prepare.clean.cleaned import Cleaned

# control characters in UTF-8, less tab, newline, form feed and carriage return, which are white space
_CONTROLS = bytes({*range(0x20), 0x7F} - {0x09, 0x0A, 0x0C, 0x0D})
# the same beyond ASCII, as ftfy knows them, and C1 controls: Windows-1252 read as Latin-1
# and what is mojibake at the start of a line alone
_ODD = re.compile("[\x80-\x9f\u206a-\u206f\ufeff\ufff9-\ufffc]|\n[ÃÂ] ")
_BEYOND_ASCII = re.compile("[^\x00-\x7f]+")
# no rule of ftfy's looks at more than two ASCII characters before or after others
_AROUND = 3
_LINE = re.compile("[^\n]*\n|[^\n]+")
_ENTITY = re.compile(r"&#?[0-9A-Za-z]{1,24};")
# names of the counts, for ftfy's names of its steps
_COUNT_NAMES = {
    "unescape_html": "entities",
    "remove_control_chars": "control_characters",
    "remove_terminal_escapes": "terminal_escapes",
}


class Repair(Config):
    """ftfy (https://ftfy.readthedocs.io) on damage alone: quotes, ligatures and widths stay as the author wrote them.

    Only lines that look damaged are passed to it, as it would not change the others. Counted are texts in which something was
    repaired: encoding, entities, control_characters, terminal_escapes.
    """

    kind: Literal["repair"] = "repair"
    entities: bool = True
    """Decode HTML entities, in texts without a `<`: in markup they are intended."""

    def clean(self, texts: list[str]) -> Cleaned:
        """The texts repaired."""
        counts = Counter[str]()
        return Cleaned([self._repaired(text, counts) if self._is_suspect(text) else text for text in texts], dict(counts))

    def _is_suspect(self, text: str) -> bool:
        data = text.encode()
        if len(data.translate(None, _CONTROLS)) != len(data):
            return True
        if self.entities and b"&" in data and b"<" not in data and _ENTITY.search(text):
            return True
        return not text.isascii() and (_ODD.search(text) is not None or _is_mojibake(text))

    def _repaired(self, text: str, counts: Counter[str]) -> str:
        config = _config(self.entities and "<" not in text)
        done: set[str] = set()
        # as ftfy does: in a long text one encoding need not be the encoding of every line
        lines = [_line(line, config, done) if self._is_suspect(line) else line for line in _LINE.findall(text)]
        counts.update(done)
        return "".join(lines)


def _is_mojibake(text: str) -> bool:
    """True wherever `ftfy.badness.is_bad` is: it looks at what is not ASCII and its neighbours alone, four times as fast."""
    from ftfy.badness import is_bad

    found = (match.span() for match in _BEYOND_ASCII.finditer(text))
    return is_bad("000".join([text[max(start - _AROUND, 0) : end + _AROUND] for start, end in found]))


def _line(line: str, config: Any, done: set[str]) -> str:
    import ftfy

    fixed = ftfy.fix_and_explain(line, config)
    if fixed.text != line:
        done.update(_COUNT_NAMES.get(step.parameter, "encoding") for step in fixed.explanation or ())
    return fixed.text


def _config(entities: bool) -> Any:
    from ftfy import TextFixerConfig

    return TextFixerConfig(
        unescape_html=entities,
        uncurl_quotes=False,
        fix_latin_ligatures=False,
        fix_character_width=False,
        fix_line_breaks=False,
        normalization=None,
    )
