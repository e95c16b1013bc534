"""Completions: only those that match as a whole earn the reward."""

from __future__ import annotations

import pytest

from raylm.data import patterns
from raylm.rl.rewards.pattern import Pattern


@pytest.mark.parametrize(
    ("completion", "value"),
    [
        ("<think>a\nb</think> 42", 0.2),
        ("  <think></think> 7  \n", 0.2),
        ("<think>a</think> 42 apples", 0.0),
        ("so <think>a</think> 42", 0.0),
    ],
)
def test_the_whole_completion_must_match(completion, value):
    assert Pattern(pattern=r"<think>.*</think> \d+").score("", completion, None).value == value


def test_what_is_no_expression_is_refused():
    with pytest.raises(ValueError, match="not a regular expression"):
        Pattern(pattern="(unclosed")


def test_a_completion_that_an_expression_comes_to_no_end_with_earns_nothing(monkeypatch):
    monkeypatch.setattr(patterns, "DEADLINE_S", 0.1)
    found = Pattern(pattern=r"(x|xx)+y").score("", "x" * 60, None)
    assert found.value == 0.0 and "came to no end" in found.reason
