"""What judges have in common: how a language model is asked about answers, and how its words become scores."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from raylm.core.config import digest_of
from raylm.data.patterns import Endless, TakingPattern, last_match
from raylm.inference.client import Reply
from raylm.inference.judging import DATA, NUMBER, ONE, RUBRIC, SCORE, TWO, better, filled, reference, shown
from raylm.rl.rewards.reward import Reward
from raylm.rl.types import Prompt, Score, Trajectory, Unscored

Ask = Callable[[list[dict[str, str]]], Awaitable[Reply]]
"""Asks the judge; `messages` of one chat."""
Found = Score | Unscored

_ALL = (
    "{rubric}\n" + DATA + "\n\n=== question\n{question}\n{reference}{answers}===\n\n"
    "Compare the answers, then give one line for each of them, and nothing after these lines: "
    '"Score <number of the answer>: <number from {low} to {high}>".'
)
_EACH = re.compile(rf"^\W*score\s+\[?(\d+)\]?\s*:\W*?{NUMBER}", re.IGNORECASE | re.MULTILINE)


class Verdicts(Reward):
    """Answers are judged by a language model, in one of three ways. Scores are between 0 and 1.

    - rubric: each answer alone, by a number from `low` to `high`;
    - pairwise: each answer against `opponents` others of its prompt, in both orders, because judges prefer a place
      (https://arxiv.org/abs/2306.05685); its score is the share of comparisons that it wins, and half of those that are even or
      in which the judge contradicts itself;
    - groupwise: all answers of a prompt in one request, in an order that does not depend on theirs.

    An answer about which the judge says nothing that can be read, after `tries` tries, has no score, with the reason counted:
    `unparsable`, `out_of_range`, `unanswered`, `refused`.
    """

    splits: ClassVar[bool] = False

    mode: Literal["rubric", "pairwise", "groupwise"] = "rubric"
    """How answers are compared."""
    rubric: str = Field(default=RUBRIC, min_length=1)
    """By what they are judged."""
    rubric_column: str | None = None
    """Column of the prompts' rows with a rubric of its own for each, where it is not empty."""
    with_ground_truth: bool = True
    """Show the judge the ground truth, where the prompt has one."""
    low: float = Field(default=0.0, allow_inf_nan=False)
    """The worst score that a judge may give (rubric, groupwise)."""
    high: float = Field(default=10.0, allow_inf_nan=False)
    """The best one."""
    pattern: TakingPattern = SCORE
    """Regular expression whose first group is the score (rubric); of several matches the last one counts."""
    opponents: int | None = Field(default=None, ge=1)
    """Other answers that each is compared with at least (pairwise), its neighbours in a circle; all where it does not say."""
    max_chars: int = Field(default=20_000, gt=0)
    """Longer questions and answers are shown by their beginning."""
    max_tokens: int = Field(default=512, gt=0)
    """Longest reply of the judge."""
    temperature: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Of its replies."""
    tries: int = Field(default=2, ge=1)
    """Times that it is asked the same where its reply cannot be read; with a growing temperature, for the same words would not
    help."""

    @model_validator(mode="after")
    def _has_room(self) -> Verdicts:
        if self.low >= self.high:
            raise ValueError(f"no score lies between low = {self.low} and high = {self.high}")
        return self

    def requests(self, count: int) -> int:
        """Most requests for `count` answers to one prompt, before any is tried again."""
        pairs = len(_pairs(count, self.opponents))
        return {"rubric": count, "pairwise": 2 * pairs, "groupwise": 1}[self.mode]

    async def verdicts(self, prompt: Prompt, drawn: list[Trajectory], ask: Callable[..., Awaitable[Reply]]) -> list[Found]:
        """One score for each answer.

        Args:
            ask: (messages, temperature) -> the judge's reply.
        """
        about = {
            "rubric": (prompt.columns or {}).get(self.rubric_column or "") or self.rubric,
            "question": self._shown(_question(prompt.messages)),
            "reference": reference(prompt.ground_truth if self.with_ground_truth else None),
            "low": f"{self.low:g}",
            "high": f"{self.high:g}",
        }
        answers = [self._shown(each.text) for each in drawn]
        if self.mode == "pairwise":
            return await self._pairwise(about, answers, ask)
        if self.mode == "groupwise":
            return await self._groupwise(about, answers, ask)
        return list(await asyncio.gather(*(self._alone(about, answer, ask) for answer in answers)))

    async def _alone(self, about: dict[str, str], answer: str, ask: Any) -> Found:
        return await self._said(filled(ONE, about | {"answer": answer}), ask, self._number)

    async def _pairwise(self, about: dict[str, str], answers: list[str], ask: Any) -> list[Found]:
        pairs = _pairs(len(answers), self.opponents)
        if not pairs:
            return [Unscored("no_opponent", "pairwise judging needs two answers to a prompt")] * len(answers)

        async def first_wins(one: int, other: int) -> Found:
            return await self._said(filled(TWO, about | {"answer": answers[one], "other": answers[other]}), ask, _better)

        asked = [order for one, other in pairs for order in ((one, other), (other, one))]
        said = await asyncio.gather(*(first_wins(*order) for order in asked))
        earned: list[list[float]] = [[] for _ in answers]
        failed: dict[int, Unscored] = {}
        for at, (one, other) in enumerate(pairs):
            there, back = said[2 * at], said[2 * at + 1]
            if isinstance(there, Unscored) or isinstance(back, Unscored):
                why = there if isinstance(there, Unscored) else back
                assert isinstance(why, Unscored)
                failed |= dict.fromkeys((one, other), why)
                continue
            share = (there.value + 1.0 - back.value) / 2
            # one who wins in one order alone has won nothing
            share = share if share in (0.0, 1.0) else 0.5
            earned[one].append(share)
            earned[other].append(1.0 - share)
        return [
            Score(sum(each) / len(each), f"{sum(each):g} of {len(each)} comparisons") if each else failed[place]
            for place, each in enumerate(earned)
        ]

    async def _groupwise(self, about: dict[str, str], answers: list[str], ask: Any) -> list[Found]:
        # by what they say, so that no place in the batch is one in the request
        order = sorted(range(len(answers)), key=lambda place: digest_of([about["question"], answers[place], place]))
        listed = "".join(f"=== answer {number}\n{answers[place]}\n" for number, place in enumerate(order, 1))
        found: list[Found] = [Unscored("unparsable", "the judge was not asked")] * len(answers)
        for number in range(self.tries):
            reply = await ask(filled(_ALL, about | {"answers": listed}), self._temperature(number))
            if reply.failed:
                return [Unscored(reply.failed, f"the judge: {reply.why}")] * len(answers)
            scores = {int(at): value for at, value in _EACH.findall(reply.text)}
            for at, place in enumerate(order, 1):
                said = (
                    self._in_range(scores[at]) if at in scores else Unscored("unparsable", f"no line `Score {at}:` in its reply")
                )
                found[place] = found[place] if isinstance(found[place], Score) else said
            if all(isinstance(one, Score) for one in found):
                break
        return found

    async def _said(self, messages: list[dict[str, str]], ask: Any, read: Callable[[str], Found]) -> Found:
        found: Found = Unscored("unparsable", "")
        for number in range(self.tries):
            reply = await ask(messages, self._temperature(number))
            if reply.failed:
                return Unscored(reply.failed, f"the judge: {reply.why}")
            found = read(reply.text)
            if isinstance(found, Score):
                return found
        return found

    def _temperature(self, number: int) -> float:
        return self.temperature if number == 0 else max(self.temperature, 0.3 * number)

    def _number(self, text: str) -> Found:
        try:
            found = last_match(self.pattern, text)
        except Endless as cause:
            return Unscored("unparsable", cause.what)
        if found is None:
            return Unscored("unparsable", f"the judge's reply has no score: {text.strip()[-80:]!r}")
        said = self._in_range(found[1])
        return said._replace(reason=text[: found.start()].strip()) if isinstance(said, Score) else said

    def _in_range(self, number: str | None) -> Found:
        try:
            value = float(number or "")
        except ValueError:
            return Unscored("unparsable", f"the judge's score is {number!r}")
        if not self.low <= value <= self.high:
            return Unscored("out_of_range", f"the judge's score is {value:g}, not from {self.low:g} to {self.high:g}")
        return Score((value - self.low) / (self.high - self.low), f"the judge: {value:g}")

    def _shown(self, text: str) -> str:
        return shown(text, self.max_chars)


def _better(text: str) -> Found:
    """1 where the first answer is said to be better, 0 where it is the second, 0.5 where neither."""
    found = better(text)
    if found is None:
        return Unscored("unparsable", f"the judge's reply names no better answer: {text.strip()[-80:]!r}")
    return Score(found, "")


def _pairs(count: int, opponents: int | None) -> list[tuple[int, int]]:
    """Which of `count` answers are compared: each with `opponents` others, those next to it in a circle."""
    most = count - 1 if opponents is None else min(opponents, count - 1)
    found = {tuple(sorted((one, (one + step) % count))) for step in range(1, (most + 1) // 2 + 1) for one in range(count)}
    return sorted((one, other) for one, other in found if one != other)


def _question(messages: str) -> str:
    turns: list[dict[str, Any]] = json.loads(messages)
    if len(turns) == 1:
        return str(turns[0].get("content") or "")
    return "\n\n".join(f"{turn.get('role')}: {turn.get('content') or ''}" for turn in turns)
