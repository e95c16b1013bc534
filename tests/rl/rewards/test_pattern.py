"""Completions: only those that match as a whole earn the reward."""

from __future__ import annotations

import pytest

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
