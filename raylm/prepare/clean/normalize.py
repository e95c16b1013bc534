"""The `normalize` cleaner: one Unicode form, one kind of line end, no invisible characters."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable
from typing import Literal

from pydantic import Field

from raylm.core.config import Config
from raylm.prepare.clean.cleaned import Cleaned

# of UTF-8 bytes: tab and newline are no controls here; carriage returns and form feeds become newlines before
_CONTROLS = bytes({*range(0x20), 0x7F} - {0x09, 0x0A})
_C1 = re.compile("[\x80-\x84\x86-\x9f]")
_ENDS = re.compile("\r\n|[\r\f\x85\u2028\u2029]")
_ENDS_IN = ("\r", "\f", "\x85", "\u2028", "\u2029")
# joiners (200c, 200d) and marks of direction stay: Persian, Indic scripts and emoji are spelled with them
_INVISIBLE = re.compile("[\u00ad\u200b\u2060\ufeff]")
# possessive, and only at the start of a run: a run of a million spaces is looked at once
_SPACES = re.compile(r"(?<=\S)[^\S\n]{2,}+(?=\S)")
_UNUSUAL_SPACES = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")
_LINE_TAIL = re.compile(r"(?<![^\S\n])[^\S\n]++(?=\n|\Z)")
_QUOTES = {"\u2018": "'", "\u2019": "'", "\u201a": "'", "\u201b": "'", "\u201c": '"', "\u201d": '"', "\u201e": '"', "\u201f": '"'}
_QUOTE = re.compile("[\u2018-\u201f]")


class Normalize(Config):
    """Unicode normalisation and white space. Counted are texts that a rule changed, by rule:
    line_ends, control_characters, invisible, form, quotes, spaces, line_tails, blank_lines.
    """

    kind: Literal["normalize"] = "normalize"
    form: Literal["NFC", "NFD", "NFKC", "NFKD", "none"] = "NFC"
    """Unicode normalisation form. NFKC also folds what looks alike (ligatures, full-width letters, superscripts)."""
    control_characters: bool = True
    """Remove control characters; tabs and newlines stay."""
    invisible: bool = True
    """Remove zero-width spaces, word joiners, soft hyphens and byte order marks; joiners that scripts need stay."""
    spaces: bool = False
    """Make every kind of space the plain one, and runs of them inside a line one space; indentation stays."""
    quotes: bool = False
    """Make curly quotes straight."""
    max_blank_lines: int | None = Field(default=2, ge=0)
    """Most blank lines that may follow each other."""

    def clean(self, texts: list[str]) -> Cleaned:
        """The texts normalised; applying it again changes nothing."""
        rules, counts, done = self._rules(), Counter[str](), []
        for text in texts:
            plain = text.isascii()
            for name, rule, only_unicode in rules:
                if plain and only_unicode:
                    continue
                changed = rule(text)
                if changed != text:
                    counts[name] += 1
                    text = changed
            done.append(text)
        return Cleaned(done, dict(counts))

    def _rules(self) -> list[tuple[str, Callable[[str], str], bool]]:
        """(name, what it does, whether ASCII is safe from it), in order."""
        rules: list[tuple[str, Callable[[str], str], bool]] = [("line_ends", _line_ends, False)]
        if self.control_characters:
            rules.append(("control_characters", _without_controls, False))
        if self.invisible:
            rules.append(("invisible", lambda text: _INVISIBLE.sub("", text), True))
        if (form := self.form) != "none":
            rules.append(("form", lambda text: unicodedata.normalize(form, text), True))
        if self.quotes:
            rules.append(("quotes", lambda text: _QUOTE.sub(lambda found: _QUOTES[found[0]], text), True))
        if self.spaces:
            rules.append(("spaces", _one_space, False))
        rules.append(("line_tails", _without_tails, False))
        if self.max_blank_lines is not None:
            run, most = re.compile(f"\n{{{self.max_blank_lines + 2},}}"), "\n" * (self.max_blank_lines + 1)
            rules.append(("blank_lines", lambda text: run.sub(most, text) if most + "\n" in text else text, False))
        return rules


def _line_ends(text: str) -> str:
    return _ENDS.sub("\n", text) if any(end in text for end in _ENDS_IN) else text


def _without_controls(text: str) -> str:
    data = text.encode()
    # no byte of a longer UTF-8 sequence is below 0x80
    kept = data.translate(None, _CONTROLS)
    text = text if len(kept) == len(data) else kept.decode()
    return text if text.isascii() else _C1.sub("", text)


def _one_space(text: str) -> str:
    if not text.isascii():
        text = _UNUSUAL_SPACES.sub(" ", text)
    return _SPACES.sub(" ", text) if "  " in text or "\t" in text else text


def _without_tails(text: str) -> str:
    if " \n" in text or "\t\n" in text or text[-1:].isspace() or not text.isascii():
        return _LINE_TAIL.sub("", text)
    return text
