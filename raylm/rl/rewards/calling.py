"""How rewards are called: one way for all the methods that a card may have."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

from raylm.core.errors import ConfigError
from raylm.rl.rewards.measure import in_words, measured, measured_each
from raylm.rl.types import Prompt, Score, Trajectory, Unscored

CONCURRENCY = 16
"""Calls of an async reward that are under way at the same time in one process, where it does not say."""

WHOLE_FAILED = ("raised", "wrong_length")
"""Why no completion of a call has a score where one of them may be at fault."""

METHODS: dict[str, tuple[str, ...]] = {
    "score_all": ("prompt", "trajectories"),
    "score_one": ("prompt", "trajectory"),
    "score_group": ("prompt", "completions", "ground_truth"),
    "score": ("prompt", "completion", "ground_truth"),
}
"""The methods that a reward may have, and how they are called; of several the first one counts."""

# somebody else's code: whatever it raises costs these completions alone. Only words leave the process, for many an exception
# cannot be made again elsewhere
RAISED = (Exception, SystemExit, KeyboardInterrupt, asyncio.CancelledError)


class Calling(NamedTuple):
    """How one reward is called."""

    function: Callable[[Prompt, list[Trajectory]], Any]
    """(prompt, trajectories): one score where there is one completion a call, else a list of them."""
    whole: bool
    """All completions of a prompt in one call."""
    is_async: bool
    splits: bool
    """Whether completions may be asked one by one where the call for all of them failed."""
    concurrency: int
    deadline_s: float | None
    """Seconds for a call where the card says so itself."""


def calling(reward: Any) -> Calling:
    """How `reward` is called. Raises ConfigError where it has none of the methods."""
    name = next((name for name in METHODS if callable(getattr(reward, name, None))), None)
    if name is None:
        ways = ", ".join(f"{name}({', '.join(arguments)})" for name, arguments in METHODS.items())
        raise ConfigError(f"the reward {type(reward).__name__} has no method score", next=f"give it one of {ways}")
    method = getattr(reward, name)
    whole = name in ("score_all", "score_group")
    plain = name in ("score", "score_group")

    def call(prompt: Prompt, drawn: list[Trajectory]) -> Any:
        about: Any = [each.text for each in drawn] if plain else drawn
        about = about if whole else about[0]
        return method(prompt.messages, about, prompt.ground_truth) if plain else method(prompt, about)

    return Calling(
        call,
        whole,
        inspect.iscoroutinefunction(method),
        bool(getattr(reward, "splits", not whole)),
        int(getattr(reward, "concurrency", CONCURRENCY)),
        getattr(reward, "call_deadline_s", None),
    )


def answers(how: Calling, prompt: Prompt, drawn: list[Trajectory]) -> list[Score | Unscored]:
    """One score, or reason, for each trajectory, by a reward that is not async."""
    try:
        found = _scores(how, how.function(prompt, drawn), len(drawn))
    except RAISED as cause:
        found = _raised(cause, len(drawn))
    return [answers(how, prompt, [each])[0] for each in drawn] if _failed(how, found) else found


async def answers_later(how: Calling, prompt: Prompt, drawn: list[Trajectory], timeout_s: float) -> list[Score | Unscored]:
    """`answers` of an async reward, which is cancelled after `timeout_s` seconds."""
    try:
        async with asyncio.timeout(timeout_s) as until:
            given = await how.function(prompt, drawn)
        found = _scores(how, given, len(drawn))
    except RAISED as cause:
        if isinstance(cause, TimeoutError) and until.expired():
            return [Unscored("timed_out", f"a reward did not answer within {timeout_s:g} s")] * len(drawn)
        found = _raised(cause, len(drawn))
    if _failed(how, found):
        return [(await answers_later(how, prompt, [each], timeout_s))[0] for each in drawn]
    return found


def _scores(how: Calling, given: Any, count: int) -> list[Score | Unscored]:
    return measured_each(given, count) if how.whole else [measured(given)]


def _failed(how: Calling, found: list[Score | Unscored]) -> bool:
    """Whether a call for all completions came to nothing, and each may be asked alone: one of them may be at fault."""
    return how.splits and len(found) > 1 and all(isinstance(one, Unscored) and one.kind in WHOLE_FAILED for one in found)


def _raised(cause: BaseException, count: int) -> list[Score | Unscored]:
    return [Unscored("raised", f"a reward raised {in_words(cause)}")] * count
