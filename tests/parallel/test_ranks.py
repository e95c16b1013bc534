"""Takes a group of two ranks, proves that it keeps state, keeps order, survives exceptions and replaces the dead."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from raylm.core.config import WorkerSpec
from raylm.core.errors import DataError, PlacementError, StageError
from raylm.parallel.ranks import hold_ranks
from tests.parallel import tasks

pytestmark = pytest.mark.ray
TWO = WorkerSpec(count=2)


@pytest.fixture(scope="module")
def group(workers):
    yield hold_ranks(workers, TWO)
    workers.release("ranks:2")


def test_what_is_held_survives_between_tasks(workers, group):
    assert group.call(tasks.count, "survives") == (1, 2)
    assert group.call(tasks.count, "survives") == (2, 2)
    assert hold_ranks(workers, TWO) is group
    assert group.call(tasks.count, "survives") == (3, 2)


def test_rows_arrive_all_and_in_order(group):
    seen: list[tuple[str, Any]] = []
    assert group.call(tasks.chatter, 500, on_row=lambda kind, values: seen.append((kind, values))) == "done"
    assert seen == [("rewind", []), *(("row", {"step": step, "rank": 0}) for step in range(500))]


def test_a_dead_rank_is_replaced_and_the_task_done_again(group):
    pids, seen = group.pids(), []

    def kill_once(kind: str, values: Any) -> None:
        if not seen:
            os.kill(pids[1], signal.SIGKILL)
        seen.append(values)

    total, pid = group.call(tasks.meet_often, 60, on_row=kill_once)
    assert total == 120.0
    assert pid != pids[0]
    assert [row["step"] for row in seen if row["pid"] == pid] == list(range(60))
    assert group.pids() != pids


@pytest.mark.parametrize("rank", [0, 1])
def test_an_exception_is_raised_at_the_driver_and_the_group_goes_on(group, rank):
    with pytest.raises(StageError, match=f"ValueError on rank {rank}: seven is no number") as caught:
        group.call(tasks.stumble, rank, False)
    assert "tasks.py:" in caught.value.where
    assert group.call(tasks.count, f"after {rank}") == (1, 2)


def test_our_own_errors_come_back_as_they_are(group):
    with pytest.raises(DataError) as caught:
        group.call(tasks.stumble, 1, True)
    assert (caught.value.what, caught.value.where, caught.value.next) == ("no rows", "shard 3", "add some")


def test_more_ranks_than_the_cluster_has_room_for_are_refused_in_words(workers):
    with pytest.raises(PlacementError, match="asks for 999 CPU"):
        hold_ranks(workers, WorkerSpec(count=999))
