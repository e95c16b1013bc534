"""A group of two ranks: it keeps state, keeps order, survives exceptions and replaces the dead."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from raylm.core.config import WorkerSpec
from raylm.core.errors import DataError, GroupLost, PlacementError, StageError
from raylm.parallel.group.driver import hold_ranks
from tests.parallel import tasks

pytestmark = pytest.mark.ray
TWO = WorkerSpec(count=2)


@pytest.fixture(scope="module")
def group(workers):
    # it stays for the next module: starting one costs more than what most tests do with it
    return hold_ranks(workers, TWO)


def test_what_is_held_survives_between_tasks(workers, group):
    assert group.call(tasks.count, "survives") == (1, 2)
    assert group.call(tasks.count, "survives") == (2, 2)
    assert hold_ranks(workers, TWO) is group
    assert group.call(tasks.count, "survives") == (3, 2)
    assert group.call(tasks.recall, "survives") == 3


def test_what_a_group_does_not_hold_is_an_exception_and_ends_no_rank(group):
    pids = group.pids()
    with pytest.raises(GroupLost, match="began anew and holds no trainer"):
        group.call(tasks.recall, "trainer")
    assert group.call(tasks.count, "after a loss") == (1, 2) and group.pids() == pids


def test_rows_arrive_all_and_in_order(group):
    seen: list[tuple[str, Any]] = []
    assert group.call(tasks.chatter, 500, on_row=lambda kind, values: seen.append((kind, values))) == "done"
    assert seen == [("rewind", 0), *(("row", {"step": step, "rank": 0}) for step in range(500))]


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


@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.long), 1])
def test_an_exception_is_raised_at_the_driver_and_the_group_goes_on(group, rank):
    with pytest.raises(StageError, match=f"ValueError on rank {rank}: seven is no number") as caught:
        group.call(tasks.stumble, rank, False)
    assert "tasks.py:" in caught.value.where
    assert group.call(tasks.count, f"after {rank}") == (1, 2)


def test_our_own_errors_come_back_as_they_are(group):
    with pytest.raises(DataError) as caught:
        group.call(tasks.stumble, 1, True)
    assert (caught.value.what, caught.value.where, caught.value.next) == ("no rows", "shard 3", "add some")


def test_sigterm_to_one_rank_moves_all_to_a_new_group_without_losing_a_step(group, tmp_path, capsys):
    pids, rows = group.pids(), []

    def end_one(kind, values):
        if len(rows) == 5:
            os.kill(pids[1], signal.SIGTERM)
        rows.append(values)

    assert group.call(tasks.heed, 60, str(tmp_path / "at"), on_row=end_one) == (60, "done")
    assert [row["step"] for row in rows] == list(range(60)), "no step was lost, none was done twice"
    assert len({row["pid"] for row in rows}) == 2
    assert "a step checkpoint was written, a new group of ranks goes on from there" in capsys.readouterr().err


def test_sigterm_at_the_driver_leaves_a_checkpoint_and_the_same_group(group, tmp_path, capsys):
    rows = []

    def stop(kind, values):
        rows.append(values)
        if len(rows) == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    pids = group.pids()
    with pytest.raises(KeyboardInterrupt):
        group.call(tasks.heed, 600, str(tmp_path / "at"), on_row=stop)
    assert int((tmp_path / "at").read_text()) == rows[-1]["step"] + 1
    assert "the ranks have left" in capsys.readouterr().err
    assert group.call(tasks.count, "after a stop") == (1, 2) and group.pids() == pids


def test_more_ranks_than_the_cluster_has_room_for_are_refused_in_words(workers):
    with pytest.raises(PlacementError, match="asks for 999 CPU"):
        hold_ranks(workers, WorkerSpec(count=999))


def test_groups_of_two_roles_live_side_by_side(group, workers):
    pids = group.pids()
    critic = hold_ranks(workers, WorkerSpec(), role="critic")
    try:
        assert critic.call(tasks.count, "a critic") == (1, 1)
        assert group.call(tasks.count, "beside a critic")[1] == 2 and group.pids() == pids
        assert hold_ranks(workers, WorkerSpec(), role="critic") is critic
    finally:
        workers.release("critic:")
    assert group.pids() == pids
