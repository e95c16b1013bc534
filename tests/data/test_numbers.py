"""Numbers as people write them: they are read exactly, whole, and in no time however long they are."""

from __future__ import annotations

import time
from fractions import Fraction

import pytest

from raylm.data.numbers import number, numbers


def values(text):
    return [found.value for found in numbers(text)]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("9007199254740993", 9007199254740993),
        ("007", 7),
        ("3.50", Fraction(7, 2)),
        (".5", Fraction(1, 2)),
        ("3.", 3),
        ("-3", -3),
        ("\u22123", -3),
        ("$-3$", -3),
        ("-$3", -3),
        ("x = - 3", -3),
        ("**-3**", -3),
        ("1,234,567.5", Fraction(2469135, 2)),
        ("1{,}234", 1234),
        ("1\u202f234", 1234),
        ("1'234", 1234),
        ("1_000", 1000),
        ("1e5", 100000),
        ("1.5E-3", Fraction(3, 2000)),
        ("2 \\times 10^{-3}", Fraction(1, 500)),
        ("1.5\u00d710\u00b3", 1500),
        ("2^10", 1024),
        ("3\u00b2", 9),
        ("7/4", Fraction(7, 4)),
        ("1 3/4", Fraction(7, 4)),
        ("\\frac{-1}{2}", Fraction(-1, 2)),
        ("-\\dfrac{1}{2}", Fraction(-1, 2)),
        ("\u00bd", Fraction(1, 2)),
        ("3\u00bd", Fraction(7, 2)),
        ("\uff12\uff14", 24),
        ("\u0663", 3),
        ("-0", 0),
    ],
)
def test_one_number_is_read_as_it_is_written(text, value):
    assert values(text) == [value]


@pytest.mark.parametrize(
    "text", ["v3", "3/4/2024", "1.2.3", "3\u03c0", "0x1F", "H2O", "1/0", "9^9^9^9", "2^99999999", "none", ""]
)
def test_what_only_holds_digits_is_no_number(text):
    assert values(text) == []


def test_a_sum_a_range_and_a_list_are_several_numbers():
    assert values("10-3=7") == [10, 3, 7]
    assert values("1,2,3") == [1, 2, 3]
    assert values("5 - 3") == [5, 3]


def test_percent_is_a_share_and_may_go_unsaid():
    def same(one, other):
        left, right = number(one), number(other)
        return left is not None and right is not None and left.same(right) and right.same(left)

    assert same("50%", "0.5") and same("50%", "50") and same("50 %", "50.0\\%")
    assert not same("0.5%", "0.5") and not same("50%", "5")


def test_numbers_too_long_to_calculate_with_are_compared_by_their_digits():
    began = time.monotonic()
    assert values("1e999999999") == values("10e999999998") != values("1e999999998")
    assert values("9" * 5000) == values("0" + "9" * 5000) != values("9" * 4999 + "8")
    assert values("-1e999999999") != values("1e999999999")
    for text in ("9" * 100_000, "1," * 50_000, "1/" * 50_000, "\\frac{" * 20_000, "9^" * 50_000, "- " * 50_000):
        numbers(text)
    assert time.monotonic() - began < 10


def test_only_a_number_and_nothing_else_is_one():
    assert number(" 3. ") is not None
    assert [number(text) for text in ("3 apples", "3 or 4", "", "C++")] == [None] * 4
