"""Programs in answers, run on their tests."""

from __future__ import annotations

from raylm.evaluate.checkers.code import Code
from raylm.evaluate.items import Item


def item(columns, truth=None):
    return Item("x", [], truth, columns, "")


def test_a_program_passes_its_tests_or_a_share_of_them():
    text = "Here:\n```python\ndef add(a, b):\n    return abs(a) + b\n```"
    row = item({"tests": ["assert add(1, 2) == 3", "assert add(-1, 2) == 1"]})
    assert Code().check(text, row) == (0.0, "1 of 2 tests passed; AssertionError in assert add(-1, 2) == 1")
    assert Code(partial=True).check(text, row).value == 0.5
    assert Code(max_tests=1).check(text, row).value == 1.0
    assert Code().check("def add", row) == (0.0, "no code")
    assert Code(timeout_s=1.0).check("```\nwhile True: pass\n```", row).value == 0.0


def test_an_answer_continues_its_prompt():
    row = item({"prompt": "def two():\n", "tests": "assert two() == 2"})
    card = Code(prefix="prompt", fenced=False)
    assert card.check("    return 2", row).value == 1.0
    assert card.unchecked(item({"tests": "x"})) == "without a text in column 'prompt'"
    assert Code().unchecked(item({})) == "without tests in 'tests'"
    assert Code(tests="ground_truth").unchecked(item({}, "assert True")) == ""
