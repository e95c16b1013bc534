"""Mathematical answers compared in a process that may hang."""

from __future__ import annotations

import pytest

from raylm.data import mathematics
from raylm.data.mathematics import Comparer

needs_it = pytest.mark.skipif(not mathematics.installed(), reason="math-verify is not installed")


@needs_it
def test_answers_are_compared_in_one_process_and_one_that_hangs_costs_itself():
    with Comparer() as compare:
        assert compare(r"\boxed{\frac{1}{2}}", "0.5") == (True, "right")
        first = compare._child
        assert compare(r"so it is $\sqrt{8}$", r"2\sqrt{2}").right is True
        assert compare._child is first
        compare._deadline_s = 0.0
        assert compare(r"\boxed{x+y}", "y+x") == (False, "it was not compared within 0 s")
        compare._deadline_s = 30.0
        assert compare(r"\boxed{x+y}", "y+x").right is True
        assert compare._child is not first


@needs_it
def test_what_only_a_mark_makes_an_answer():
    assert mathematics.compare("3", "3", boxed=True) == (False, "marks no answer")
    assert mathematics.compare("#### 3", "3", boxed=True).right is True
