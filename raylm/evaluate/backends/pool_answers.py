"""Answers by the generators that a stage holds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from raylm.core.errors import DataError, PlacementError, RaylmError
from raylm.evaluate.backends.backend import Answer
from raylm.inference.completions import Quarantined, Sampling
from raylm.inference.pool import Pool

LOOK_S = 1.0


class Engine:
    """A pool that holds one of several models at a time."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self._held: tuple[str, int] | None = None

    def hold(self, path: str, max_len: int) -> None:
        """Let the generators hold a model, where they hold another one.

        Args:
            max_len: most tokens of prompt and answer together.
        """
        if self._held != (path, max_len):
            self._held = None
            self.pool.start(path, max_len=max_len)
            self._held = path, max_len

    def answers(self, path: str, max_len: int) -> PoolAnswers:
        """Answers of this model, whichever one is held when they are asked for."""
        return PoolAnswers(self.pool, max_len, lambda: self.hold(path, max_len))


class PoolAnswers:
    """A pool that holds a model.

    Args:
        room: most tokens of prompt and answer together.
        hold: called first, where the pool may hold another model.
    """

    reads_tokens = True

    def __init__(self, pool: Pool, room: int | None, hold: Callable[[], None] = lambda: None) -> None:
        self._pool, self.room, self._hold = pool, room, hold

    def complete(
        self, prompts: Sequence[Any], sampling: Sampling, seeds: Sequence[int]
    ) -> Iterator[tuple[int, list[Answer] | str]]:
        """All are submitted at once; the generators keep themselves busy.

        Raises:
            PlacementError: no generator is left, or they were started anew meanwhile.
        """
        self._hold()
        owed, began = set(range(len(prompts))), time.monotonic()
        for at, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True)):
            self._pool.submit(at, list(prompt), sampling, seed)
        try:
            while owed:
                looked = time.monotonic()
                answered = self._pool.answers(LOOK_S)
                if not answered and time.monotonic() - looked < LOOK_S:
                    # it waits that long while anything is under way
                    raise PlacementError(
                        f"{len(owed)} prompts are not under way any more: another start of the generators dropped them",
                        where="generators",
                        next="one evaluation at a time asks a pool",
                    )
                for key, found in answered:
                    at: Any = key
                    owed.discard(at)
                    yield at, _judged(found, time.monotonic() - began)
        finally:
            for at in owed:
                self._pool.cancel(at)


def _judged(found: Any, seconds: float) -> list[Answer] | str:
    if isinstance(found, Quarantined):
        return "that ended one generator after the other"
    if isinstance(found, DataError):
        return f"that the engine refused ({found.what[:80]})"
    if isinstance(found, RaylmError):
        raise found
    return [Answer(one.text, list(one.tokens), one.finish_reason, seconds, len(one.tokens)) for one in found]
