"""Pacing of generation: how far it may go ahead of the trainer, and which groups an iteration learns from.

A group that is asked while the generators hold version a may be learned from up to version a + max_staleness of the trainer.
So many are asked that all of them come into one of the iterations until then; nothing is drawn to be thrown away (AReaL,
https://arxiv.org/abs/2505.24298, section 5.1, bounds the same; here the bound holds for each sample and not on the mean).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

from pydantic import Field

from raylm.core.config import Config
from raylm.rl.types import Prompt


class Asked(Protocol):
    """A group that was asked."""

    number: int
    prompt: Prompt
    version: int


Group = TypeVar("Group", bound=Asked)


class AsyncRollouts(Config):
    """Generation goes on while the trainer learns."""

    max_staleness: int = Field(default=1, ge=0)
    """Versions of the weights that the first token of a completion may lie behind those which learn from it; 0: each iteration
    is drawn by the newest weights, and nothing overlaps."""
    in_flight_updates: bool = True
    """Completions under way stand still while new weights come, and go on with these; false: they come to their end first."""


def room(quotas: Sequence[int], version: int, held: int, max_staleness: int) -> int:
    """Groups that may be under way or wait to be learned from.

    Args:
        quotas: groups of the iterations to come, from the one that is learned from next.
        version: of the weights that this one will update.
        held: version that the generators hold.
    """
    return sum(quotas[: max(held + max_staleness - version + 1, 0)])


def choose(
    finished: Iterable[Group], under_way: Sequence[Group], quotas: Sequence[int], version: int, max_staleness: int
) -> list[Group] | None:
    """The groups that the next iteration learns from, the oldest first; None while it must wait for others.

    It waits where it is not full, and where what is left would then be more than the iterations before its end can take. No
    prompt is taken twice in an iteration, because its samples would become one group.
    """
    waiting = sorted(finished, key=lambda group: (group.version, group.number))
    chosen: list[Group] = []
    rows: set[int] = set()
    for group in waiting:
        if len(chosen) < quotas[0] and group.prompt.row not in rows:
            chosen.append(group)
            rows.add(group.prompt.row)
    if under_way:
        if len(chosen) < quotas[0]:
            return None
        taken = {group.number for group in chosen}
        left = [group.version for group in (*waiting, *under_way) if group.number not in taken]
        for ahead in range(max_staleness + 1):
            due = sum(asked + max_staleness <= version + ahead for asked in left)
            if due > sum(quotas[1 : 1 + ahead]):
                return None
    return sorted(chosen, key=lambda group: group.number)
