"""Personal data: what is found, what only looks like it, checksums against slow ones, hostile texts in linear time."""

import random

import pytest

from raylm.prepare.clean.pii import Pii, _is_card, _is_iban
from tests.hostile import ends

ALL = Pii(kinds=["email", "iban", "card", "ssn", "ip", "phone"])

FOUND = {
    "Mail john.doe+news@mail.example.co.uk, please.": "Mail <email>, please.",
    "<a@b.io>;o'neil@x-y.org.": "<<email>>;<email>.",
    "two: a@b.com,c@d.com": "two: <email>,<email>",
    "Call +1 555 123 4567 now": "Call <phone> now",
    "+49 (0)30 1234567, +442079460958": "<phone>, <phone>",
    "(212) 555-0123 or 212-555-0123 or 212.555.0123.": "<phone> or <phone> or <phone>.",
    "in 2024 1-800-555-0199": "in 2024 <phone>",
    "Tel.: 020 7946 0958": "Tel.: <phone>",
    "Telefon: 030/1234567, Fax 030 1234568": "Telefon: <phone>, Fax <phone>",
    "from 93.184.216.34:443 came": "from <ip>:443 came",
    "2606:2800:220:1:248:1893:25c8:1946 and 2001:4860:4860::8888.": "<ip> and <ip>.",
    "card 4111 1111 1111 1111 or 5500-0000-0000-0004": "card <card> or <card>",
    "378282246310005; 3782 822463 10005; 30569309025904": "<card>; <card>; <card>",
    "IBAN DE89 3704 0044 0532 0130 00 / GB29NWBK60161331926819": "IBAN <iban> / <iban>",
    "write to user@bücher.example, jörg.müller@example.de or почта@пример.рф!": "write to <email>, <email> or <email>!",
    "ME@EXAMPLE.COM, me@xn--bcher-kva.example: a@xn--e1afmkfd.xn--p1ai": "<email>, <email>: <email>",
    "联系me@example.com谢谢。邮箱:me@example.cn,": "联系<email>谢谢。邮箱:<email>,",
    "用户@例子.中国": "<email>",
    "SSN 123-45-6789": "SSN <ssn>",
}
LOOKS_LIKE = [
    "version 10.20.30.40, v2.14.13.22, release 4.18.0.305",
    "OID 2.5.29.37 and 2.5.4.12, sections 1.2.3.4 and 3.1.2.1; pi is 3.14159265358979",
    "192.168.0.1 127.0.0.1 10.0.0.255 169.254.1.1 fe80::1 ::1 256.300.1.1 1.2.3.4.5.6",
    "ISBN 978-0-306-40615-7, 0-306-40615-2, 9780306406157, ISSN 2049-3630",
    "on 2024-01-15, 15.01.2024 and 01/15/2024 at 12:30:45.123456 or 2024-01-15T12:30:45",
    "sha256 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08 and d41d8cd98f00b204e9800998ecf8427e",
    "uuid 123e4567-e89b-12d3-a456-426614174000, arXiv 2112.11446, doi 10.1000/182",
    "4111 1111 1111 1112 fails Luhn; 1234567812345670 has no issuer; 0.4111111111111111",
    "DE89 3704 0044 0532 0130 01 fails mod 97; XX82 WEST 1234 5698 7654 32 has no country",
    "$1,234,567.89 and 1 234 567 people, 5+5=10, 2+3456789=3456791, x+1234567, +35236450.6 +3.140000",
    "@handle me @ home a@b user@localhost @example.com foo@.com",
    "1990-1999, 100-200-300, 12-345-6789, pages 123-4567, 2024 2025 2026",
    "rows 00 11 22 33 44 55 66 77; population 1985: 555 1234 5678",
    "12:34:56 and 20:01:02:03 std::vector<int> 2001:1:2",
    "Load logo@2x.png and icon@3x.json, see a@b.png, main@v2.local or page@home.html and me@example.com.png",
    "git clone git@github.com:org/repo.git; y = w@x.to(device) and A@B.T, react@18.2.0 x@y.mean()",
    "Trident/17.40.51.10 pip==81.20.30.40 firmware 81.20.30.40, +1 2 3 4 5 6 7 8",
    "the hotel 0123456789, intel 0123 456 789",
]


@pytest.mark.parametrize("text", FOUND)
def test_found(text):
    assert ALL.clean([text]).texts == [FOUND[text]]


@pytest.mark.parametrize("text", LOOKS_LIKE)
def test_only_looks_like_it(text):
    made = ALL.clean([text])
    assert made.texts == [text] and made.counts == {}


def test_counts_kinds_and_placeholder():
    made = Pii(kinds=["email"], placeholder="[{kind}]").clean(["a@b.com and c@d.org", "+1 555 123 4567", ""])
    assert made.texts == ["[email] and [email]", "+1 555 123 4567", ""]
    assert made.counts == {"email": 2}
    assert Pii().clean(["SSN 123-45-6789"]).texts == ["SSN 123-45-6789"]
    # an unassigned area number is none
    assert ALL.clean(["666-45-6789 000-12-3456"]).counts == {}


def test_again_changes_nothing():
    once = ALL.clean(list(FOUND)).texts
    assert ALL.clean(once).texts == once


def test_luhn_against_a_slow_sum():
    def luhn(digits):
        total = 0
        for place, sign in enumerate(reversed(digits)):
            value = int(sign) * (2 if place % 2 else 1)
            total += value // 10 + value % 10
        return total % 10 == 0

    draw = random.Random(0)
    for _ in range(2000):
        digits = "4" + "".join(draw.choices("0123456789", k=15))
        assert _is_card(digits) == luhn(digits)


def test_iban_check_digits_against_the_sum_by_pieces():
    def remainder(text):
        rest = 0
        for sign in text[4:] + text[:4]:
            for digit in str(ord(sign) - 55 if sign.isalpha() else int(sign)):
                rest = (rest * 10 + int(digit)) % 97
        return rest

    draw = random.Random(0)
    sound = 0
    for _ in range(5000):
        text = "DE" + "".join(draw.choices("0123456789", k=20))
        assert _is_iban(text) == (remainder(text) == 1)
        sound += _is_iban(text)
    assert 20 < sound < 100


HOSTILE = ["a*@", "a.*@b", "@*", "a@*", "a@b.*", "a@b-*", "1*", "1_*", "+1_*", "+*", "1.1.*", "1111_*", "(212)_*", "2001:*", ":*"]
HOSTILE += [
    "DE89_*",
    "AB12*",
    "tel_*",
    "tel_01_*",
    "000-*",
    "tel_0(0*",
    "+1(1)*",
    "a@b.c*",
    "call_me_at_*",
    "0_*",
    "1-*",
    "2001::*",
]


@pytest.mark.parametrize("pattern", HOSTILE)
def test_linear_on_hostile_texts(pattern):
    # what is in front of the star, 300,000 times; _ is a space
    repeated, _, rest = pattern.replace("_", " ").partition("*")
    with ends():
        ALL.clean([repeated * 300_000 + rest, repeated[-2:] * 750_000 + rest])
