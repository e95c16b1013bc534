"""Rewards of the length alone, against hand-worked numbers and TRL's soft punishment."""

from __future__ import annotations

import pytest

from raylm.rl.rewards.length import Length
from raylm.rl.types import Prompt, Trajectory

PROMPT = Prompt(0, [1], "[]", None)


def drawn(tokens: int, text: str = "", mask: list[int] | None = None) -> Trajectory:
    return Trajectory([5] * tokens, [], text, "stop", mask=mask)


@pytest.mark.parametrize(("tokens", "value"), [(10, 2.0), (8, 1.2), (12, 1.2), (5, 0.0), (15, 0.0), (0, 0.0), (99, 0.0)])
def test_the_closer_to_a_length_the_better(tokens, value):
    assert Length(target=10, value=2.0).score_one(PROMPT, drawn(tokens)).value == pytest.approx(value)


def test_the_soft_punishment_is_trls():
    from trl.rewards import get_soft_overlong_punishment

    theirs = get_soft_overlong_punishment(max_completion_len=20, soft_punish_cache=8)
    card = Length(target=20, shape="soft", tolerance=8)
    lengths = [0, 11, 12, 13, 16, 19, 20, 21, 40]
    ours = [card.score_one(PROMPT, drawn(tokens)).value for tokens in lengths]
    assert ours == pytest.approx(theirs(completion_ids=[[5] * tokens for tokens in lengths]))
    assert ours == pytest.approx([0, 0, 0, -0.125, -0.5, -0.875, -1, -1, -1])


def test_a_cosine_falls_from_value_to_nothing():
    card = Length(target=8, shape="cosine")
    values = [card.score_one(PROMPT, drawn(tokens)).value for tokens in (0, 4, 8, 16)]
    assert values == pytest.approx([1.0, 0.5, 0.0, 0.0])


def test_what_is_counted():
    one = drawn(5, "ab cd  é", mask=[1, 0, 0, 1, 1])
    assert [Length(target=9, unit=unit).score_one(PROMPT, one).reason for unit in ("tokens", "words", "characters")] == [
        "3 tokens", "3 words", "8 characters",
    ]  # fmt: skip


def test_a_tolerance_beyond_the_target_is_refused():
    with pytest.raises(ValueError, match="tolerance = 9 is more than target = 8"):
        Length(target=8, shape="soft", tolerance=9)
