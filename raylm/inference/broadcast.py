"""One call to every generator at a time, where one that is lost does not keep the others."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from raylm.inference.calls import GeneratorLost, answer_of

TICK_S = 1.0


class Broadcast:
    """Calls of one transfer.

    Args:
        generators: handles of Generator actors.
        deadline_s: most seconds for one call.
        tick: called each second while this waits.
    """

    def __init__(self, generators: list[Any], deadline_s: float, tick: Callable[[], None]) -> None:
        self._generators, self._deadline_s, self._tick = generators, deadline_s, tick
        self._running: dict[int, tuple[str, Any, float]] = {}
        self.lost: dict[int, str] = {}
        """Generators that were lost, by place, and how."""

    def places(self, among: Iterable[int] | None = None) -> list[int]:
        """Of the generators that are not lost."""
        return [at for at in (range(len(self._generators)) if among is None else among) if at not in self.lost]

    def ask(self, method: str, args: dict[int, tuple[Any, ...]]) -> None:
        """Call `method` with the arguments of each place; the answers come with `wait`."""
        until = time.monotonic() + self._deadline_s
        for at in self.places(args):
            self._running[at] = (method, getattr(self._generators[at], method).remote(*args[at]), until)

    def wait(self, among: Iterable[int] | None = None) -> dict[int, Any]:
        """The answers, by place, of the generators that gave one; the others are lost from now on.

        Raises:
            RaylmError: what a generator raised.
        """
        import ray

        waiting, found = {*self._running}.intersection(self._running if among is None else among), {}
        while waiting:
            asked = [self._running[at][1] for at in waiting]
            done, _ = ray.wait(asked, num_returns=len(asked), timeout=TICK_S)
            self._tick()
            late = time.monotonic()
            for at in [at for at in waiting if self._running[at][1] in done or late > self._running[at][2]]:
                waiting.discard(at)
                method, reference, _ = self._running.pop(at)
                try:
                    # what is not done by now is too late
                    found[at] = answer_of(reference, method, 1.0)
                except GeneratorLost as cause:
                    self.lost[at] = cause.what
        return found
