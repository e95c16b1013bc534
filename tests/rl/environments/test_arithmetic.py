"""Exact arithmetic, and expressions that are none or take too much."""

import pytest

from raylm.rl.environments.arithmetic import calculate


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("6 * 7", "42"),
        ("(1 + 2) * -3", "-9"),
        ("0.1 + 0.2", "0.3"),
        ("1,234,567 + 1", "1234568"),
        ("2^10", "1024"),
        ("7 / 2", "3.5"),
        ("-7 / 4", "-1.75"),
        ("1 / 3", "0.333333333333"),
        ("-1/2^13", "-0.0001220703125"),  # 13 places are too many, 12 digits are not
        ("7 // 2 + 7 % 4", "6"),
        ("-7 // 2", "-4"),
        ("10 / 5", "2"),
        ("99999999999999999999 + 1", "100000000000000000000"),
        ("12 \u00d7 3 \u00f7 4", "9"),
    ],
)
def test_values(expression, value):
    assert calculate(expression) == value


@pytest.mark.parametrize(
    ("expression", "why"),
    [
        ("1 / 0", "division by zero"),
        ("5 % (2 - 2)", "division by zero"),
        ("0 ** -1", "division by zero"),
        ("9 ** 9 ** 9", "too large"),
        ("(9 ** 4000) * (9 ** 4000)", "too large"),
        ("1e400", "too large"),
        ("2 ** 0.5", "an exponent must be a whole number"),
        ("__import__('os').getpid()", "only numbers"),
        ("open", "only numbers"),
        ("True + 1", "only numbers"),
        ("1 < 2", "only numbers"),
        ("[1] * 1000000000", "only numbers"),
        ("'a' * 3", "only numbers"),
        ("1 +", "no arithmetic expression"),
        ("", "no arithmetic expression"),
        ("1" * 201, "more than 200 characters"),
        ("(" * 150 + "1" + ")" * 40, "no arithmetic expression"),
    ],
)
def test_what_cannot_be_worked_out_is_said_in_words(expression, why):
    with pytest.raises(ValueError, match=why):
        calculate(expression)
