"""The order in which prompts are asked, and how far it has come.

position 0, 1, 2 ... --rows_at--> rows --next()--> Ask(position, row)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable
from typing import Any, NamedTuple


class Ask(NamedTuple):
    """One prompt at one place of the order: each is asked once, and again only by a run that goes on from before."""

    position: int
    row: int


class Order:
    """Prompts one by one, position after position.

    Args:
        rows_at: rows of a position, none of them twice.
    """

    def __init__(self, rows_at: Callable[[int], list[int]]) -> None:
        self._rows_at = rows_at
        self._sizes: dict[int, int] = {}
        self.go_to(0)

    def go_to(self, position: int, offset: int = 0, again: Iterable[Ask] = ()) -> None:
        """Go on with the prompt behind the first `offset` of `position`, after those that are asked `again`."""
        self._position, self._offset, self._again = position, offset, deque(again)
        self._rows = self._rows_at(position) if offset else None

    def next(self, without: Collection[int] = ()) -> Ask:
        """The next one whose row is not among `without`, which must not be all there are: those wait for their turn."""
        later: list[Ask] = []
        while (ask := self._again.popleft() if self._again else self._step()).row in without:
            later.append(ask)
        self._again.extendleft(reversed(later))
        return ask

    def _step(self) -> Ask:
        if self._rows is None:
            self._rows = self._rows_at(self._position)
        ask = Ask(self._position, self._rows[self._offset])
        self._offset += 1
        if self._offset == len(self._rows):
            self._position, self._offset, self._rows = self._position + 1, 0, None
        return ask

    def size(self, position: int) -> int:
        """Number of prompts at a position."""
        if position not in self._sizes:
            self._sizes[position] = len(self._rows_at(position))
        return self._sizes[position]

    def state(self, in_flight: Iterable[Ask]) -> dict[str, Any]:
        """How far it has come, for a step checkpoint, and what is to be asked again in a run that goes on from there."""
        again = sorted([*in_flight, *self._again], key=self._rank)
        return {"position": self._position, "offset": self._offset, "again": [list(ask) for ask in again]}

    def go_on_from(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.go_to(state["position"], state["offset"], [Ask(*pair) for pair in state["again"]])

    def asked(self) -> set[Ask]:
        """All that was asked up to here."""
        whole = {Ask(position, row) for position in range(self._position) for row in self._rows_at(position)}
        return (whole | {Ask(self._position, row) for row in self._rows_at(self._position)[: self._offset]}) - set(self._again)

    def _rank(self, ask: Ask) -> tuple[int, int]:
        return (ask.position, self._rows_at(ask.position).index(ask.row))
