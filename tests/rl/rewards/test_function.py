"""Functions with TRL's reward signature, TRL's own among them."""

from __future__ import annotations

import asyncio

import pytest

from raylm.core.errors import ConfigError
from raylm.rl.rewards.calling import answers, answers_later, calling
from raylm.rl.rewards.function import Function
from raylm.rl.types import Prompt, Score, Trajectory

PROMPT = Prompt(0, [], '[{"role": "user", "content": "How much?"}]', "7", columns={"difficulty": 3})
SEEN: list[dict] = []


def everything(prompts, completions, **columns):
    SEEN.append({"prompts": prompts, "completions": completions, **columns})
    return [len(one[0]["content"]) for one in completions]


def some(completions, solution, difficulty, scale=1.0):
    return [scale * hard * (one == truth) for one, truth, hard in zip(completions, solution, difficulty, strict=True)]


async def later(prompts, completions, **columns):
    await asyncio.sleep(0)
    return [0.5] * len(prompts)


def picky(completions, **columns):
    if any(one == "bad" for one in completions):
        raise ValueError("bad")
    return [1.0] * (len(completions) - ("short" in completions))


def with_state(completions, trainer_state):
    return [0.0]


def drawn(*texts: str) -> list[Trajectory]:
    return [Trajectory([5, 6], [], text, "stop") for text in texts]


def scores(function: str, *texts: str, **table) -> list:
    card = Function(path=f"{__name__}:{function}", **table)
    card.check("rewards.0")
    how = calling(card.runner())
    assert how.whole and how.splits
    found = asyncio.run(answers_later(how, PROMPT, drawn(*texts), 5.0)) if how.is_async else answers(how, PROMPT, drawn(*texts))
    return [one.value if isinstance(one, Score) else one.kind for one in found]


def test_it_gets_what_trl_hands_over():
    SEEN.clear()
    assert scores("everything", "ab", "abc") == [2.0, 3.0]
    assert [
        {
            "prompts": [[{"role": "user", "content": "How much?"}]] * 2,
            "completions": [[{"role": "assistant", "content": text}] for text in ("ab", "abc")],
            "completion_ids": [[5, 6]] * 2,
            **{name: ["7", "7"] for name in ("answer", "truth", "ground_truth", "solution")},
            "difficulty": [3, 3],
        }
    ] == SEEN


def test_it_gets_no_more_than_it_takes_and_texts_where_it_is_said():
    assert scores("some", "7", "8", conversational=False, options={"scale": 2.0}) == [6.0, 0.0]


def test_async_functions_are_awaited():
    assert scores("later", "a", "b") == [0.5, 0.5]


def test_what_fails_is_found_among_the_others():
    assert scores("picky", "a", "bad", "b", conversational=False) == [1.0, "raised", 1.0]
    assert scores("picky", "a", "short", conversational=False) == [1.0, "wrong_length"]


def test_trls_own_reward_is_one():
    from trl.rewards import think_format_reward

    texts = ["<think>a</think> b", "a", "<think>a"]
    card = Function(path="trl.rewards:think_format_reward")
    card.check("rewards.0")
    ours = [one.value for one in answers(calling(card.runner()), PROMPT, drawn(*texts))]
    assert ours == think_format_reward([[{"role": "assistant", "content": text}] for text in texts]) == [1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("nowhere:f", "No module named 'nowhere'"),
        (f"{__name__}:nothing", "has no attribute"),
        (f"{__name__}:SEEN", "is no function"),
        (f"{__name__}:with_state", "needs trainer_state, which only TRL's trainer has"),
        ("math:sqrt", "by place"),
    ],
)
def test_what_cannot_be_called_is_refused(path, words):
    with pytest.raises(ConfigError, match=words):
        Function(path=path).check("rewards.0")
