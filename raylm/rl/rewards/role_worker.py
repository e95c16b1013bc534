"""The actor of a reward that lives on its own role: a reward model, or a judge in an engine of ours."""

from __future__ import annotations

import threading
from typing import Any, NamedTuple

from raylm.core.config import resolve
from raylm.core.errors import DataError, RaylmError
from raylm.rl.rewards.calling import RAISED
from raylm.rl.rewards.measure import in_words, measured
from raylm.rl.types import Prompt, Score, Trajectory, Unscored


class Where(NamedTuple):
    """What a reward with a role is told of the run."""

    model: str
    """Where its own model lies: what its `model` names."""
    tokenizer: str
    """Where the tokenizer of prompts and completions lies."""


class Judged(NamedTuple):
    """What a reward says of the trajectories of one prompt."""

    found: list[Score | Unscored]
    token_rewards: list[list[float] | None] | None = None
    """Rewards at single tokens of each trajectory, where it gives some."""


class RoleWorker:
    """One reward in an actor that has what its role asks for.

    A card with a role has `role() -> Role | None` and `scorer(where)`, which gives an object with
    `score(prompt, trajectories) -> Judged`, or a list of scores.
    """

    def __init__(self, card: Any, where: Where) -> None:
        self._card, self._where, self._scorer = card, where, None
        self._loading = threading.Lock()

    def start(self) -> None:
        """Load its model. Raises RaylmError where that cannot be used."""
        with self._loading:
            if self._scorer is None:
                self._scorer = resolve(self._card).scorer(self._where)

    def score(self, prompt: Prompt, drawn: list[Trajectory]) -> Judged:
        """Scores of the trajectories of one prompt; of what fails among them, why it has none."""
        self.start()
        try:
            return self._judged(prompt, drawn)
        except RAISED as cause:
            # what is wrong with one trajectory is a DataError; what else we raise on purpose is wrong with all of them
            if isinstance(cause, RaylmError) and not isinstance(cause, DataError):
                raise
            if len(drawn) == 1:
                return Judged([Unscored("raised", f"a reward raised {in_words(cause)}")])
        each = [self.score(prompt, [one]) for one in drawn]
        tokens = [one.token_rewards[0] if one.token_rewards else None for one in each]
        return Judged([one.found[0] for one in each], tokens if any(tokens) else None)

    def _judged(self, prompt: Prompt, drawn: list[Trajectory]) -> Judged:
        scorer: Any = self._scorer
        given = scorer.score(prompt, drawn)
        found = given if isinstance(given, Judged) else Judged(list(given))
        if len(found.found) != len(drawn):
            why = Unscored("wrong_length", f"a reward returned {len(found.found)} scores for {len(drawn)} completions")
            return Judged([why] * len(drawn))
        return found._replace(found=[measured(one) for one in found.found])

    def check(self) -> None:
        """That the actor lives."""
