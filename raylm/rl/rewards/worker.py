"""The actor of a reward worker: a supervisor of the process in which rewards run."""

from __future__ import annotations

from typing import Any

from raylm.rl.rewards.supervisor import Answered, Supervisor
from raylm.rl.types import Prompt, Trajectory


class RewardWorker:
    """All rewards of texts, in a process that can be killed. Its methods are called from several threads."""

    def __init__(self, cards: list[Any], timeout_s: float, start_s: float, memory_bytes: int | None) -> None:
        self._supervisor = Supervisor(cards, timeout_s, start_s, memory_bytes)

    def score(self, prompt: Prompt, drawn: list[Trajectory]) -> Answered:
        """What each reward says of each completion of one prompt."""
        return self._supervisor.score(prompt, drawn)

    def check(self) -> None:
        """Whether it goes on. Raises StageError where it does not."""
        self._supervisor.check()
