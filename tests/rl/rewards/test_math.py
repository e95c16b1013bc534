r"""Answers that are mathematically one, by math-verify; plain numbers exactly."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from raylm.core.errors import ConfigError
from raylm.rl.rewards.math import Math

HAS = find_spec("math_verify") is not None
needs_it = pytest.mark.skipif(not HAS, reason="math-verify is not installed")


@pytest.mark.skipif(HAS, reason="math-verify is installed")
def test_without_the_package_it_is_refused_before_anything_starts():
    with pytest.raises(ConfigError, match=r"math-verify, which is not installed[\s\S]*pip install math-verify"):
        Math().check("rewards.0")


@needs_it
@pytest.mark.parametrize(
    ("said", "truth", "right"),
    [
        (r"so \boxed{\frac{1}{2}}", "0.5", True),
        (r"\boxed{0.5}", r"\frac12", True),
        (r"\boxed{y+x}", "x+y", True),
        (r"\boxed{\{2,1\}}", r"\{1,2\}", True),
        (r"\boxed{(0,1]}", "(0,1)", False),
        (r"\boxed{(0,1]}", "(0,1]", True),
        (r"The answer is $2\sqrt{2}$", r"\sqrt{8}", True),
        (r"\boxed{50\%}", "0.5", True),
        (r"\boxed{x=3}", "3", True),
        (r"\boxed{1,234}", "1234", True),
        ("#### 12", "12", True),
        ("#### 12", "#### 12", True),
        (r"\boxed{11} no, \boxed{12}", "12", True),
        (r"\boxed{\pi}", "3.14159", False),
        (r"\boxed{2\pi}", r"\frac{4\pi}{2}", True),
        ("", "3", False),
        ("no idea", "3", False),
        # exact, however many digits there are
        ("123456789*987654321 = 121932631112635268", "121932631112635269", False),
        (r"\boxed{9007199254740993}", "9007199254740992", False),
        (r"\boxed{9007199254740993}", "9007199254740993", True),
        (r"\boxed{3.0000000001}", "3", False),
        ("7/4", "3/4", False),
        ("1e5", "5", False),
        ("1" * 400, "2" * 400, False),
        ("1" * 400, "1" * 400, True),
        (r"$2^{100}$", "1267650600228229401496703205376", True),
        (r"$2^{100}$", "1267650600228229401496703205375", False),
    ],
)
def test_what_is_the_same_answer(said, truth, right):
    assert Math(value=2.0).score("", said, truth).value == (2.0 if right else 0.0)


@needs_it
def test_marked_answers_alone_where_that_is_asked():
    assert Math(boxed=True).score("", "it is 12", "12").reason == "marks no answer"
    assert Math(boxed=True).score("", r"it is \boxed{12}", "12").value == 1.0
    assert Math().score("", "it is 12", "12").value == 1.0


def test_prompts_without_a_ground_truth_are_left_out():
    assert [Math().can_score(truth) for truth in ("1", " ", None)] == [True, False, False]


@needs_it
def test_letters_of_a_choice_are_compared_as_they_are():
    assert [Math().score("", rf"\boxed{{{said}}}", "B").value for said in ("B", "C", "AB")] == [1.0, 0.0, 0.0]


@needs_it
def test_a_thought_is_no_answer():
    assert Math().score("", r"<think>\boxed{5}</think> so \boxed{4}", "4").value == 1.0
    assert Math().score("", r"<think>perhaps \boxed{4}", "4").value == 0.0
