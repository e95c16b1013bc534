"""What every prompting technique has: how a question is put, how often, and what of an answer is the answer."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any, ClassVar

from raylm.core.config import Config
from raylm.evaluate.items import Item, Message, item_of

_SYSTEM = ("system", "developer")


class Technique(Config):
    """A card of `technique`."""

    plain: ClassVar[bool] = False
    """The question as it is: no name is needed to tell it from others."""

    @property
    def draws(self) -> int:
        """Answers that are drawn to give one."""
        return 1

    @property
    def sampling(self) -> dict[str, Any]:
        """What of the task's sampling the technique decides itself."""
        return {}

    @property
    def examples(self) -> tuple[int, int]:
        """(solved questions of the train split that stand before a question, seed of their choice)."""
        return 0, 0

    def messages(self, item: Item, shots: list[Item]) -> list[Message]:
        """What is asked: examples stand between the system's turns and the question."""
        at = next((at for at, turn in enumerate(item.messages) if turn["role"] not in _SYSTEM), 0)
        return [*item.messages[:at], *self._solved(shots), *item.messages[at:]]

    def solution(self, shot: Item) -> str:
        """The answer to a solved question."""
        return shot.ground_truth or ""

    def lacks(self, shot: Item) -> str:
        """Why a question of the train split is no example; "" where it is one."""
        return "" if shot.ground_truth else "without a ground truth"

    def _solved(self, shots: list[Item]) -> list[Message]:
        """Examples as turns; of a question of several turns all stand there."""
        asked = [[turn for turn in shot.messages if turn["role"] not in _SYSTEM] for shot in shots]
        answers = [{"role": "assistant", "content": self.solution(shot)} for shot in shots]
        return [turn for turns, answer in zip(asked, answers, strict=True) for turn in (*turns, answer)]


def chosen(rows: Any, technique: Technique, asked: set[str]) -> list[Item]:
    """The examples of a technique, the same for every question, so that what they cost is paid once.

    Args:
        rows: the train split of the prompts.
        asked: `question_id` of the questions, which are no examples.
    """
    number, seed = technique.examples
    found: list[Item] = []
    order = random.Random(seed).sample(range(len(rows)), len(rows)) if number else []
    for at in order:
        shot = item_of(rows[at])
        if shot.question_id not in asked and not technique.lacks(shot):
            found.append(shot)
        if len(found) == number:
            break
    return found


def voted(said: list[str]) -> int:
    """Place of the first of the answers that most agree on; an empty one has no vote while another has."""
    counts = Counter(word for word in said if word) or Counter(said)
    most = max(counts.values())
    return next(at for at, word in enumerate(said) if counts.get(word) == most)


def with_instruction(messages: list[Message], instruction: str) -> list[Message]:
    """The messages, with an instruction behind the last thing that the user says."""
    last = max((at for at, turn in enumerate(messages) if turn["role"] == "user"), default=None)
    if last is None or not instruction:
        return messages
    told = {**messages[last], "content": f"{messages[last]['content']}\n\n{instruction}"}
    return [*messages[:last], told, *messages[last + 1 :]]
