"""The process of a reward worker: a finite score for each completion, or the reason why it has none."""

from __future__ import annotations

import asyncio
from typing import Any

from raylm.core.config import resolve
from raylm.rl.types import Prompt, Score, Unscored

LARGEST = 3e38
"""Beyond it a score is no float32, which advantages are."""
SHOWN = 300
"""Letters of an exception that are passed on."""


class RewardWorker:
    """All rewards, in a process that can be killed.

    Args:
        cards: the rewards as the job names them; somebody else's code is first imported here.
    """

    def __init__(self, cards: list[Any]) -> None:
        self._cards = cards
        self._rewards: list[Any] = []

    def ready(self) -> None:
        """Make the rewards. Raises ConfigError when one cannot be made."""
        if not self._rewards:
            limit_memory()
            self._rewards = [resolve(card) for card in self._cards]

    def score(self, prompt: Prompt, texts: list[str]) -> list[Score | Unscored]:
        """The sum of all rewards for each completion of one prompt."""
        self.ready()
        return score_group(self._rewards, prompt, texts)


def score_group(rewards: list[Any], prompt: Prompt, texts: list[str]) -> list[Score | Unscored]:
    """The sum of all rewards for each completion of one prompt; none where one of the rewards has none."""
    return [_total(rewards, prompt, text) for text in texts]


def _total(rewards: list[Any], prompt: Prompt, text: str) -> Score | Unscored:
    total, reasons = 0.0, []
    for reward in rewards:
        found = _one(reward, prompt, text)
        if isinstance(found, Unscored):
            return found
        total += found.value
        reasons.append(found.reason)
    return _finite(total, "; ".join(reasons))


def _one(reward: Any, prompt: Prompt, text: str) -> Score | Unscored:
    try:
        return measured(reward.score(prompt.messages, text, prompt.ground_truth))
    # somebody else's code: whatever it raises costs this completion alone. Only words leave the process, for many an
    # exception cannot be made again elsewhere
    except (Exception, SystemExit, KeyboardInterrupt, asyncio.CancelledError) as cause:
        return Unscored("raised", f"a reward raised {in_words(cause)}")


def measured(given: Any) -> Score | Unscored:
    """What a reward gave back, as a Score of one finite float: a Score, a pair of number and reason, or a number. Numbers are
    those of Python, Decimal and Fraction, truth values, and whatever holds one number (numpy, torch)."""
    value: Any = given
    reason: Any = ""
    if isinstance(given, tuple) and len(given) == 2 and (isinstance(given, Score) or isinstance(given[1], str)):
        value, reason = given
    if hasattr(value, "dtype") and hasattr(value, "item"):
        if getattr(value, "size", 1) == 0 or not _is_single(value):
            return Unscored("no_number", f"a reward returned a {type(value).__name__} that holds not one number")
        value = value.item()
    if isinstance(value, (str, bytes, bytearray)) or not (hasattr(value, "__float__") or hasattr(value, "__index__")):
        if asyncio.iscoroutine(value):
            value.close()  # nobody will wait for it
        return Unscored("no_number", f"a reward returned {_what(value)} where a number is needed")
    try:
        return _finite(float(value), str(reason)[:SHOWN])
    except OverflowError:
        return Unscored("not_finite", "a reward's score is too large for a float")


def in_words(cause: BaseException) -> str:
    """Type and message of an exception, also of one that cannot say it."""
    try:
        said = str(cause).strip()
    except (Exception, SystemExit) as inner:
        said = f"(its message cannot be read: {type(inner).__name__})"
    return f"{type(cause).__name__}{': ' if said else ''}{said[:SHOWN]}"


def limit_memory() -> None:
    """A reward may take half of the machine's memory: then it gets a MemoryError, before the machine runs out and Linux or
    Ray ends some other process."""
    import os
    import resource

    half = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard == resource.RLIM_INFINITY or hard > half:
        resource.setrlimit(resource.RLIMIT_DATA, (half, hard))


def _finite(value: float, reason: str) -> Score | Unscored:
    if abs(value) <= LARGEST:
        return Score(value, reason)
    return Unscored("not_finite", f"a score is {value:g}, no finite number")


def _is_single(value: Any) -> bool:
    shape = getattr(value, "shape", ())
    return all(size == 1 for size in shape)


def _what(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"a {type(value).__name__} of {len(value)}"
    return "None" if value is None else f"a {type(value).__name__}"
