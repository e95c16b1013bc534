"""Which groups an iteration takes, and how many may be asked: by hand."""

from __future__ import annotations

from typing import NamedTuple

from raylm.rl.pacing import choose, room
from raylm.rl.types import Prompt


class Asked(NamedTuple):
    number: int
    version: int
    prompt: Prompt


def groups(*versions: int, first: int = 0, row: int | None = None) -> list[Asked]:
    return [
        Asked(first + at, version, Prompt(first + at if row is None else row, [], "", None))
        for at, version in enumerate(versions)
    ]


def taken(*found) -> list[int] | None:
    chosen = choose(*found)
    return None if chosen is None else [one.number for one in chosen]


def test_an_iteration_takes_the_oldest_that_are_finished():
    finished = groups(1, 1, 0, 1)
    assert taken(finished, [], [2, 2, 2], 1, 2) == [0, 2], "in the order in which they were asked"
    assert taken(finished, groups(1, first=4), [2, 2, 2], 1, 2) == [0, 2], "one under way does not hold it up"


def test_it_waits_until_it_is_full():
    assert taken(groups(0), groups(0, first=1), [2], 0, 0) is None
    assert taken(groups(0), [], [2], 0, 0) == [0], "as long as something may come"


def test_it_waits_for_what_would_be_too_old_afterwards():
    under_way = groups(0, first=9)
    assert taken(groups(1, 1), under_way, [2, 2], 0, 1) == [0, 1], "version 1 may still learn from it"
    assert taken(groups(1, 1), under_way, [2, 2], 1, 1) is None, "version 2 may not"
    # three of version 0 are left, and version 1 is the last that may learn from them: two do not wait, one more would
    assert taken(groups(0, 0), groups(0, 0, first=5), [2, 2], 0, 1) == [0, 1]
    assert taken(groups(0, 0), groups(0, 0, 0, first=5), [2, 2], 0, 1) is None


def test_no_prompt_is_twice_in_an_iteration():
    finished = [*groups(0, 0, row=3), *groups(0, first=2)]
    assert taken(finished, [], [2], 0, 0) == [0, 2]


def test_room_is_what_comes_into_an_iteration_in_time():
    assert room([4, 4, 4], version=5, held=5, max_staleness=0) == 4
    assert room([4, 4, 4], version=5, held=5, max_staleness=2) == 12
    # while version 5 is made of version 4, which generators hold: what they begin now is for the next two
    assert room([4, 4, 3], version=5, held=4, max_staleness=2) == 8
    assert room([4], version=5, held=4, max_staleness=0) == 0
