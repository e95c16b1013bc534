"""The `process_reward` reward: what a value head says at the end of each step of a completion."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from raylm.core.errors import ConfigError
from raylm.rl.rewards.reward_model import Reader, ValueModel
from raylm.rl.rewards.role_worker import Judged, Where
from raylm.rl.types import Prompt, Score, Trajectory


class ProcessReward(ValueModel):
    """Each step of a completion is rewarded at its last token (https://arxiv.org/abs/2305.20050), or the whole by the steps
    together. A step ends with `separator`; the last one with the completion. The model must have the policy's tokenizer."""

    kind: Literal["process_reward"] = "process_reward"
    separator: str = Field(default="\n\n", min_length=1)
    """What ends a step."""
    to: Literal["tokens", "score"] = "tokens"
    """Where it goes: each step's value to its last token, or all of them, as `aggregate` says, to the completion's score."""
    aggregate: Literal["min", "mean", "last", "sum"] = "min"
    """What is reported of the steps, and added to the score where that is asked for."""
    sigmoid: bool = False
    """Values are logits: take the probability that they stand for."""
    center: float = Field(default=0.0, allow_inf_nan=False)
    """Subtracted from each value."""

    @property
    def in_score(self) -> bool:
        """Whether what is reported is a part of the score."""
        return self.to == "score"

    def scorer(self, where: Where) -> Steps:
        """The loaded model. Raises RaylmError where it is no reward model, or of another tokenizer."""
        return Steps(self, where)


class Steps:
    """A process reward in its process."""

    def __init__(self, card: ProcessReward, where: Where) -> None:
        from raylm.model.load import load_tokenizer
        from raylm.model.token_values import TokenValues

        if why := Reader(where).why:
            raise ConfigError(
                f"a process reward scores the tokens that were drawn, and cannot read them: {why}", where=where.model
            )
        self._card, self._tokenizer = card, load_tokenizer(where.model)
        self._values = TokenValues(where.model, card.dtype, card.batch_tokens)

    def score(self, prompt: Prompt, drawn: Sequence[Trajectory]) -> Judged:
        """The steps' values of each trajectory, at their tokens or together."""
        values = self._values([[*prompt.tokens, *one.tokens] for one in drawn])
        found, rewards = [], []
        for one, value_T in zip(drawn, values, strict=True):
            ends = step_ends(one.tokens, self._tokenizer, self._card.separator)
            steps = [self._value(float(value_T[len(prompt.tokens) + end])) for end in ends]
            found.append(Score(self._together(steps), f"{len(steps)} steps"))
            at = dict(zip(ends, steps, strict=True))
            rewards.append([at.get(place, 0.0) for place in range(len(one.tokens))])
        return Judged(found, None if self._card.in_score else rewards)

    def _value(self, value: float) -> float:
        return (1.0 / (1.0 + math.exp(-value)) if self._card.sigmoid else value) - self._card.center

    def _together(self, steps: list[float]) -> float:
        if not steps:
            return 0.0
        return {"min": min(steps), "mean": sum(steps) / len(steps), "last": steps[-1], "sum": sum(steps)}[self._card.aggregate]


def step_ends(tokens: Sequence[int], tokenizer: Any, separator: str) -> list[int]:
    """Place of the last token of each step, in order: of the token that completes a separator, and of the last one. Steps of
    nothing but separators are part of the one before."""
    if not tokens:
        return []

    def steps(count: int) -> int:
        """Steps that are complete within the first `count` tokens."""
        return sum(1 for step in _text(tokens[:count], tokenizer).split(separator)[:-1] if step.strip())

    ends = []
    for number in range(1, steps(len(tokens)) + 1):
        low, high = (ends[-1] + 1 if ends else 0) + 1, len(tokens)
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if steps(middle) >= number else (middle + 1, high)
        ends.append(low - 1)
    last = len(tokens) - 1
    rest = _text(tokens, tokenizer).split(separator)[-1]
    return [*ends, last] if last not in ends and (rest.strip() or not ends) else ends


def _text(tokens: Sequence[int], tokenizer: Any) -> str:
    return tokenizer.decode(list(tokens), skip_special_tokens=True)
