r"""Exact numbers in text: integers of any size, decimals, fractions, powers, percents.

A number is compared as it is written and never as a float: 9007199254740993 is not 9007199254740992, 1/2 is 0.5, 1e3 is
1,000, -3 is not 3, and the 3 in 13, v3, 3.5 or 3/4 is no number of its own.
"""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction
from typing import NamedTuple

MOST = 4000
"""Digits and tens up to which a number is calculated with; a longer one equals only what is written with the same digits."""

_SPACES = "\u00a0\u2007\u2009\u202f"
_SUPER = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+")
_DIGITS = r"(?:(?>[0-9]{1,3}(?:,[0-9]{3})++(?![0-9])|[0-9]++)(?:\.[0-9]++)?+|\.[0-9]++)"
_TIMES_TEN = r"\s?(?:[*\u00d7\u00b7]|x|\\times|\\cdot)\s?10(?:\^|\*\*)[{(]?(?P<ten>[-+]?[0-9]{1,18})[)}]?"
_NUMBER = re.compile(
    rf"""
    (?<![\w.^_/\\√])
    (?P<sign>(?<![\w)\]}}%])[-+]|(?<=[=(:\[{{<>])\s-\s?)?+
    (?:\\?[$€£¥]\s?(?P<sign_after>-)?+)?+
    (?:
      \\[dt]?frac\s?\{{\s*(?P<over>-?{_DIGITS})\s*\}}\s?\{{\s*(?P<under>{_DIGITS})\s*\}}
    | (?P<whole>[0-9]{{1,18}})\s(?P<part>[0-9]{{1,18}})\s?/\s?(?P<of>[0-9]{{1,18}})
    | (?P<top>{_DIGITS})\s?/\s?(?P<bottom>{_DIGITS})
    | (?P<base>{_DIGITS})(?:\^|\*\*)[{{(]?(?P<power>[-+]?[0-9]{{1,18}})[)}}]?
    | (?P<digits>{_DIGITS})(?:[eE](?P<e>[-+]?[0-9]{{1,18}})(?![\w.])|{_TIMES_TEN})?+
    )
    (?![0-9]|\.[0-9]|/[0-9]|\s?[πi√°](?!\w)|\s?\\(?:pi|sqrt)|[A-Za-z_]+[0-9]|\^|\*\*[0-9({{])
    (?P<percent>\s?\\?%)?+
    """,
    re.VERBOSE,
)
_WORD = re.compile(r"\w{0,40}")


class Number(NamedTuple):
    """One number of a text. `value` is a Fraction, or (sign, digits, tens) of one with too many digits to calculate with."""

    value: Fraction | tuple[bool, str, int]
    percent: bool
    word: str
    """What follows without a space, as in 5km."""

    def same(self, other: Number) -> bool:
        """Whether both say the same: 50% is 0.5, and 50 where only the other leaves the unit out."""
        if self.percent == other.percent:
            return self.value == other.value
        share, plain = (self.value, other.value) if self.percent else (other.value, self.value)
        if not isinstance(share, Fraction):
            return share == plain
        return share / 100 == plain or (abs(share) >= 1 and share == plain)


def numbers(text: str) -> list[Number]:
    """All numbers of `text`, in order."""
    plain, found = as_plain(text), []
    for match in _NUMBER.finditer(plain):
        value = _value(match)
        if value is not None:
            word = _WORD.match(plain, match.end())
            found.append(Number(value, match["percent"] is not None, word[0] if word else ""))
    return found


def number(text: str) -> Number | None:
    """What `text` says when it is one number and nothing else, else None."""
    plain = as_plain(text).strip().strip("$").strip()
    match = _NUMBER.match(plain)
    whole = match is not None and plain[match.end() :].strip() in ("", ".")
    found = numbers(plain) if whole else []
    return found[0] if len(found) == 1 else None


def as_plain(text: str) -> str:
    """`text` with the digits, minus signs, fractions and separators of other scripts and of LaTeX as ASCII has them."""
    text = re.sub(r"[⁻⁺]?[⁰¹²³⁴⁵⁶⁷⁸⁹]+", lambda found: "^" + found[0].translate(_SUPER), text)
    text = re.sub(r"(?<=[0-9])([¼-¾⅐-⅞])", r" \1", text)
    text = unicodedata.normalize("NFKC", re.sub(rf"(?<=\d)[{_SPACES}'\u2019_](?=\d{{3}}(?!\d))", ",", text))
    text = text.replace("\u2044", "/").replace("\u2212", "-").replace("\u2013", "-").replace("\ufe63", "-")
    text = text.replace("{,}", ",").replace("\\,", ",").replace("\\!", "").replace("\\left", "").replace("\\right", "")
    return "".join(str(unicodedata.decimal(one)) if one.isdecimal() else one for one in text) if not text.isascii() else text


def _value(match: re.Match[str]) -> Fraction | tuple[bool, str, int] | None:
    """None where there is no value: a denominator of zero, a power that is too large."""
    minus = ("-" in (match["sign"] or "")) != (match["sign_after"] is not None)
    if match["digits"]:
        tens = int(match["e"] or match["ten"] or 0)
        found = _decimal(match["digits"], tens)
    elif match["base"]:
        found = _power(_decimal(match["base"]), int(match["power"]))
    elif match["whole"]:
        part = _ratio(_decimal(match["part"]), _decimal(match["of"]))
        found = None if part is None else int(match["whole"]) + part
    else:
        over = match["over"] or match["top"]
        minus = minus != over.startswith("-")
        found = _ratio(_decimal(over.removeprefix("-")), _decimal(match["under"] or match["bottom"]))
    if not minus or found is None:
        return found
    return -found if isinstance(found, Fraction) else (True, *found[1:])


def _decimal(text: str, tens: int = 0) -> Fraction | tuple[bool, str, int]:
    whole, _, after = text.replace(",", "").partition(".")
    digits = (whole + after).lstrip("0")
    tens += len(digits) - len(digits.rstrip("0")) - len(after)
    digits = digits.rstrip("0")
    if not digits:
        return Fraction(0)
    if len(digits) > MOST or abs(tens) > MOST:
        return False, digits, tens
    return Fraction(int(digits)) * Fraction(10) ** tens


def _ratio(over: Fraction | tuple[bool, str, int], under: Fraction | tuple[bool, str, int]) -> Fraction | None:
    if isinstance(over, Fraction) and isinstance(under, Fraction) and under != 0:
        return over / under
    return None


def _power(base: Fraction | tuple[bool, str, int], power: int) -> Fraction | tuple[bool, str, int] | None:
    if base == 10:
        return _decimal("1", power)
    if isinstance(base, Fraction) and len(str(base)) * abs(power) <= MOST and (base != 0 or power >= 0):
        return base**power
    return None
