"""Exact arithmetic on expressions of numbers, without running them as code."""

from __future__ import annotations

import ast
import math
import operator
import re
from fractions import Fraction

MOST_CHARS = 200
MOST_BITS = 13_000
"""Of a result, and of each part of it, about 3,900 digits: a tower of powers must not take the machine's memory."""

_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_BINARY = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}
_WHOLE = {ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod}


def calculate(expression: str) -> str:
    """The value: a whole number, a decimal where one ends, else 12 significant digits. `^` is a power, `,` may part thousands.

    Raises:
        ValueError: in words, what is wrong with the expression.
    """
    text = expression.strip()
    if len(text) > MOST_CHARS:
        raise ValueError(f"the expression has more than {MOST_CHARS} characters")
    plain = _THOUSANDS.sub("", text).replace("^", "**").replace("\u00d7", "*").replace("\u00f7", "/")
    try:
        tree = ast.parse(plain, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ValueError("this is no arithmetic expression") from None
    try:
        return _written(_value(tree.body))
    except OverflowError:
        raise ValueError("the result is too large") from None


def _value(node: ast.expr) -> Fraction:
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)) and not isinstance(node.value, bool):
        if not math.isfinite(node.value):
            raise ValueError("the result is too large")
        # a decimal is what is written, not the float nearest to it
        return Fraction(node.value if isinstance(node.value, int) else repr(node.value))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.UAdd, ast.USub)):
        inner = _value(node.operand)
        return -inner if isinstance(node.op, ast.USub) else inner
    if not isinstance(node, ast.BinOp):
        raise ValueError("only numbers, + - * / // % ** and brackets are known")
    left, right, kind = _value(node.left), _value(node.right), type(node.op)
    if kind in (ast.Div, ast.FloorDiv, ast.Mod) and right == 0:
        raise ValueError("division by zero")
    if kind in _BINARY:
        return _bounded(_BINARY[kind](left, right))
    if kind in _WHOLE:
        return _bounded(Fraction(_WHOLE[kind](left, right)))
    if kind is ast.Pow:
        return _power(left, right)
    raise ValueError("only numbers, + - * / // % ** and brackets are known")


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1:
        raise ValueError("an exponent must be a whole number")
    if base == 0 and exponent < 0:
        raise ValueError("division by zero")
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if bits * abs(exponent) > MOST_BITS:
        raise ValueError("the result is too large")
    return base**exponent.numerator


def _bounded(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MOST_BITS:
        raise ValueError("the result is too large")
    return value


def _written(value: Fraction) -> str:
    if value.denominator == 1:
        return str(value.numerator)
    rest, places = value.denominator, 0
    while rest % 10 == 0 or rest % 5 == 0 or rest % 2 == 0:
        rest, places = rest // (10 if rest % 10 == 0 else 5 if rest % 5 == 0 else 2), places + 1
    if rest == 1 and places <= 12:
        digits = str(abs(value.numerator) * 10**places // value.denominator).rjust(places + 1, "0")
        return f"{'-' if value < 0 else ''}{digits[:-places]}.{digits[-places:]}".rstrip("0").rstrip(".")
    return f"{float(value):.12g}"
