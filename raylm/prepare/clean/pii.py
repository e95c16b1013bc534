"""The `pii` cleaner: replaces personal addresses, phone numbers and account numbers by placeholders."""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Literal

from pydantic import Field

from raylm.core.config import Config
from raylm.prepare.clean.cleaned import Cleaned
from raylm.prepare.clean.top_level import TOP_LEVEL

Kind = Literal["email", "iban", "card", "ssn", "ip", "phone"]
Spans = Iterator[tuple[int, int]]

# Every regex begins with the sign it searches for and looks back from there: a look-back first would be tried at each letter.
# Before it, bytes are searched for the shape that a kind cannot be without: digits become 0, capitals A, spaces -.
_SHAPE = bytes.maketrans(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ ", b"0" * 10 + b"A" * 26 + b"-")
_CARD_SHAPES = (b"0000000000000", b"0000-000000", b"0000-0000-")

# labels of letters of any script (RFC 5890); the last one is looked up
_DOMAIN = re.compile(
    r"@(?:[A-Za-z0-9](?:[A-Za-z0-9\-]{0,61}[A-Za-z0-9])?\.){1,8}([A-Za-z]{2,24}|xn--[A-Za-z0-9\-]{2,59})(?![A-Za-z0-9_\-]|\.\w)"
)
_WIDE_DOMAIN = re.compile(r"@(?:[^\W_](?:[\w\-]{0,61}[^\W_])?\.){1,8}([^\W\d_]{2,24}|xn--[A-Za-z0-9\-]{2,59})(?![\w\-])")
# what stands behind a remote folder (`git@host.org:name`) and a call (`a@b.to(c)`)
_NO_DOMAIN = re.compile(r":[A-Za-z~/.]|\(")
# scripts that are written without spaces: a word in front of an address may touch it
_TOUCHING = re.compile("[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff\uff00-\uffef]")
_MAX_LOCAL = 64

_IPV4 = re.compile(r"\d(?<![\w.\-]\d)\d{0,2}\.\d{1,3}\.\d{1,3}\.\d{1,3}(?![\w\-]|\.\w)")
# what stands before a number of four parts that is none of a machine
_NO_ADDRESS = re.compile(
    r"(?:\b(?:v|ver|version|release|build|rev|revision|update|patch|firmware|driver|kernel|section|chapter|clause|figure|fig|table)"
    r"\.?\s{0,2}|§\s{0,2}|[=~^]=|[~^]|[A-Za-z]/)\Z",
    re.IGNORECASE,
)
# only 2000::/3 is public
_IPV6 = re.compile(r"[23](?<![\w:.][23])[0-9A-Fa-f]{3}:[0-9A-Fa-f:]{2,34}(?![\w:])")

# 13 to 19 digits, together or in the groups that are printed on cards
_CARD = re.compile(
    r"\d(?<![\w.,\-+/#=]\d)(?:\d{3}([ \-])\d{4}\1\d{4}\1\d{4}(?:\1\d{3})?|\d{3}([ \-])\d{6}\2\d{4,5}|\d{12,18})"
    r"(?![\w\-/]|[.,]\d| \d)"
)
_IBAN = re.compile(r"[A-Z](?<![A-Za-z0-9][A-Z])[A-Z]\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?(?![A-Za-z0-9])")
# countries by length, https://www.swift.com/standards/data-standards/iban-international-bank-account-number
_IBAN_COUNTRIES = {
    15: "NO",
    16: "BE",
    18: "DK FI FO GL NL",
    19: "MK SI",
    20: "AT BA EE KZ LT LU XK",
    21: "CH HR LI LV",
    22: "BG BH CR DE GB GE IE ME RS VA",
    23: "AE GI IL IQ TL",
    24: "AD CZ ES MD PK RO SA SE SK TN VG",
    25: "PT ST",
    26: "IS TR",
    27: "FR GR IT MC MR SM",
    28: "AL AZ BY CY DO GT HU LB PL SV",
    29: "BR EG PS QA UA",
    30: "JO KW MU",
    31: "MT SC",
    32: "LC",
}
_SSN = re.compile(r"(?<![\w\-.])(?!000|666|9)\d{3}-(?!00)\d\d-(?!0000)\d{4}(?![\w\-]|\.\d)")
_SSN_SHAPE = b"000-00-0000"

# a number in international form; in North American form; and any that a word before it calls one
_SEPARATED = r"(?:[ .\-/]|[ ]?\([0-9]{1,4}\)[ ]?)?"
_INTERNATIONAL = re.compile(rf"\+(?<![\w+)\]}}.,=/\-]\+)[1-9](?:{_SEPARATED}[0-9]){{6,14}}(?![\w]|[\-.,]\d)")
_DECIMAL = re.compile(r"\+\d+\.\d+")
_NANP = re.compile(
    r"(?<![\w.,\-+/=#$])(?:1[ .\-])?(?:\([2-9]\d\d\) ?|[2-9]\d\d([ .\-]))\d{3}(?(1)\1|[ .\-])\d{4}(?![\w\-/]|[.,]\d)"
)
_NAMED = re.compile(
    r"(?<![^\W_])(?:tel(?:efono|efon|ephone|éfono)?|tél(?:éphone)?|phone|mobile?|cell|fax|whatsapp|call|ring)"
    r"(?: number| no)?(?:[.:]{0,2}[ ]{1,2}|\.?:|[ ](?:me|us)[ ](?:at|on)[ ])"
    r"((?:\(0\d{1,4}\)|0)(?:[ .\-/]?\d){6,13})(?![\w\-/]|[.,]\d)",
    re.IGNORECASE,
)


class Pii(Config):
    """Replaces personal data that has a fixed format by placeholders, counted by kind.

    Where the format alone is not enough, more is checked: top-level domains (email: no name of a file), checksums (card: Luhn
    and the issuers' prefixes; iban: mod 97 and the country's length) and whether an address is public (ip). Names and postal
    addresses have no fixed format and stay.
    """

    kind: Literal["pii"] = "pii"
    kinds: list[Kind] = Field(default=["email", "iban", "card", "ip", "phone"], min_length=1)
    """What is looked for. `ssn` (United States) is off: in other countries its format means something else."""
    placeholder: str = "<{kind}>"
    """Replacement; `{kind}` stands for the kind."""

    def clean(self, texts: list[str]) -> Cleaned:
        """The texts with placeholders."""
        counts = Counter[str]()
        # the order is fixed: digits of an account must not be taken for a telephone number
        order = [kind for kind in _FINDERS if kind in self.kinds]
        return Cleaned([self._one(text, order, counts) for text in texts], dict(counts))

    def _one(self, text: str, order: list[str], counts: Counter[str]) -> str:
        shape = text.encode().translate(_SHAPE)
        for kind in order:
            kept, at = [], 0
            for start, end in _FINDERS[kind](text, shape):
                kept += [text[at:start], self.placeholder.replace("{kind}", kind)]
                at = end
                counts[kind] += 1
            if kept:
                text = "".join([*kept, text[at:]])
        return text


def _emails(text: str, shape: bytes) -> Spans:
    at, done = text.find("@") if b"@" in shape else -1, 0
    while at >= 0:
        domain = _domain_at(text, at)
        # the local part is looked for backwards from the sign, so a text without one costs nothing
        local = _local_start(text, max(at - _MAX_LOCAL, done), at) if domain else at
        if domain and local < at:
            yield local, domain.end()
            done = domain.end()
        at = text.find("@", max(at + 1, done))


def _domain_at(text: str, at: int) -> re.Match[str] | None:
    """The domain behind the sign at `at`, when there is such a top-level domain."""
    domain = _DOMAIN.match(text, at)
    # an ASCII domain that letters of another script follow may be the beginning of one in that script
    wide = _WIDE_DOMAIN.match(text, at) if domain is None or not text[domain.end() : domain.end() + 1].isascii() else None
    for match in (wide, domain):
        if match and _is_top_level(match[1]) and not _NO_DOMAIN.match(text, match.end()):
            return match
    return None


def _is_top_level(name: str) -> bool:
    name = name.lower()
    if name.startswith("xn--"):
        try:
            name = name[4:].encode().decode("punycode")
        except UnicodeError:
            return False
    return name in TOP_LEVEL


def _local_start(text: str, lowest: int, at: int) -> int:
    """Where the local part that ends at `at` begins; `at` when there is none."""
    start = at
    while start > lowest and (text[start - 1] in "._%+'-" or (text[start - 1].isascii() and text[start - 1].isalnum())):
        start -= 1
    if start > lowest and text[start - 1].isalnum() and (start == at or not _TOUCHING.match(text[start - 1])):
        # letters beyond ASCII (RFC 6531)
        while start > lowest and (text[start - 1] in "._%+'-" or text[start - 1].isalnum()):
            start -= 1
    while start < at and not text[start].isalnum():
        start += 1
    before = text[start - 1 : start]
    # neither the tail of a longer word or number, nor a part with dots at its end
    tail = before == "@" or (before.isalnum() and not _TOUCHING.match(before))
    return at if text[at - 1] == "." or tail else start


def _ibans(text: str, shape: bytes) -> Spans:
    return (match.span() for match in _IBAN.finditer(text) if _is_iban(match[0])) if b"AA00" in shape else iter(())


def _cards(text: str, shape: bytes) -> Spans:
    if any(form in shape for form in _CARD_SHAPES):
        for match in _CARD.finditer(text):
            if _is_card(re.sub(r"\D", "", match[0])):
                yield match.span()


def _ssns(text: str, shape: bytes) -> Spans:
    return (match.span() for match in _SSN.finditer(text)) if _SSN_SHAPE in shape else iter(())


def _ips(text: str, shape: bytes) -> Spans:
    spans: list[tuple[int, int]] = []
    if b"0.0" in shape:
        spans += [match.span() for match in _IPV4.finditer(text) if _is_ipv4(text, match)]
    if b"0" in shape and text.count(":") > 1:
        spans += [match.span() for match in _IPV6.finditer(text) if _is_public(match[0])]
    return iter(sorted(spans))


def _phones(text: str, shape: bytes) -> Spans:
    spans: list[tuple[int, int]] = []
    if b"+0" in shape:
        spans += [match.span() for match in _INTERNATIONAL.finditer(text) if _is_dialled(match[0])]
    if b"000-0000" in shape or b"000.0000" in shape:
        spans += [match.span() for match in _NANP.finditer(text)]
    # it begins with the 0 that is dialled before an area
    if b"0" in shape and (" 0" in text or ":0" in text or "(0" in text):
        spans += [match.span(1) for match in _NAMED.finditer(text)]
    end = 0
    for span in sorted(spans):
        if span[0] >= end:
            yield span
            end = span[1]


_FINDERS: dict[str, Callable[[str, bytes], Spans]] = {
    "email": _emails,
    "iban": _ibans,
    "card": _cards,
    "ssn": _ssns,
    "ip": _ips,
    "phone": _phones,
}


def _is_iban(text: str) -> bool:
    """Country's length and ISO 7064 mod 97: the country and check digits moved to the end, A = 10 ... Z = 35."""
    plain = text.replace(" ", "")
    return (
        plain[:2] in _IBAN_COUNTRIES.get(len(plain), "").split()
        and int("".join(str(int(sign, 36)) for sign in plain[4:] + plain[:4])) % 97 == 1
    )


def _is_card(digits: str) -> bool:
    """A known issuer's prefix and length, and the Luhn sum (ISO/IEC 7812-1)."""
    size, two, three, four = len(digits), int(digits[:2]), int(digits[:3]), int(digits[:4])
    known = (
        (digits[0] == "4" and size in (13, 16, 19))
        or ((51 <= two <= 55 or 2221 <= four <= 2720) and size == 16)
        or (two in (34, 37) and size == 15)
        or ((four == 6011 or 644 <= three <= 649 or two in (62, 65)) and 16 <= size <= 19)
        or ((300 <= three <= 305 or two in (36, 38, 39)) and size == 14)
        or (3528 <= four <= 3589 and 16 <= size <= 19)
    )
    doubled = (int(sign) * 2 for sign in digits[-2::-2])
    return known and (sum(map(int, digits[::-2])) + sum(n - 9 if n > 9 else n for n in doubled)) % 10 == 0


def _is_ipv4(text: str, match: re.Match[str]) -> bool:
    # four single digits number versions and sections far more often than machines; the others are names of X.500
    if (
        len(match[0]) == 7
        or match[0].startswith(("2.5.4.", "2.5.29."))
        or _NO_ADDRESS.search(text[max(match.start() - 12, 0) : match.start()])
    ):
        return False
    return _is_public(match[0])


def _is_public(text: str) -> bool:
    try:
        return ipaddress.ip_address(text).is_global
    except ValueError:
        return False


def _is_dialled(text: str) -> bool:
    """No more digits than ITU-T E.164 has, no decimal number with a sign in front, no row of single digits."""
    groups = re.findall(r"\d+", text)
    return (
        2 * sum(len(group) == 1 for group in groups[1:]) <= len(groups)
        and sum(sign.isdigit() for sign in text) <= 15
        and not _DECIMAL.fullmatch(text)
    )
