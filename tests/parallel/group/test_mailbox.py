"""Groups that start and end: which deaths the mailbox counts, and that a run without progress ends."""

from __future__ import annotations

from typing import Any

from raylm.core.errors import PlacementError
from raylm.parallel.group.mailbox import MOST_DEATHS, Mailbox


def deaths_until_the_end(steps_of: Any) -> int | None:
    """Groups that tell from where they go on, log the steps `steps_of(group)`, and die; how many until the run ends."""
    mailbox = Mailbox()
    mailbox.post(1, ["payload"])
    for group in range(20):
        mailbox.join(0, 1, f"group {group}", "host", "node", 1)
        _, outcome = mailbox.poll(1)
        if outcome:
            assert isinstance(outcome[1], PlacementError)
            return group
        mailbox.log(1, ("rewind", 0))
        for step in steps_of(group):
            mailbox.log(1, ("row", {"step": step}))
    return None


def test_a_group_that_dies_before_its_first_step_is_not_started_for_ever():
    assert deaths_until_the_end(lambda group: []) == MOST_DEATHS + 1


def test_one_that_dies_again_and_again_at_the_same_step_is_not_either():
    assert deaths_until_the_end(lambda group: range(3)) == MOST_DEATHS + 1


def test_one_that_gets_further_each_time_goes_on():
    assert deaths_until_the_end(lambda group: range(group + 1)) is None


def test_deaths_between_the_tasks_of_one_run_count_together():
    mailbox = Mailbox()
    for task in range(1, 20):
        mailbox.post(task, ["payload"], "run", step=0)
        mailbox.join(0, 1, f"group {task}", "host", "node", 1)
        mailbox.finish(task, ("lost", None))
        if mailbox.poll(task)[1][0] == "raised":
            break
    # the first group's start is no death; step 0 is new once
    assert task == MOST_DEATHS + 2
    mailbox.post(task + 1, ["payload"], "another run")
    assert mailbox.poll(task + 1)[1] is None


def test_what_a_task_left_is_let_go_once_it_was_read_and_with_the_next_task():
    mailbox = Mailbox()
    for task in range(1, 10):
        mailbox.post(task, ["payload"])
        assert mailbox.next(task - 1) == (task, ["payload"])
        mailbox.finish(task, ("returned", bytearray(1000)))
        mailbox.finish(task - 1, ("returned", "late"))
        assert mailbox.poll(task)[1] == ("returned", bytearray(1000))
        if task % 2:
            mailbox.let_go(task)
        assert list(mailbox._outcomes) == [task]
        assert mailbox._outcomes[task][1] == (None if task % 2 else bytearray(1000))
    mailbox.let_go(3)
    assert list(mailbox._outcomes) == [9]


def test_ranks_that_leave_a_stopped_task_stay_also_those_that_come_after_the_next_task():
    mailbox = Mailbox()
    mailbox.post(1, ["payload"])
    for rank in range(3):
        mailbox.join(rank, 3, "group", "host", "node", rank)
    mailbox.ask_to_leave(1, "stopped")
    assert mailbox.leave(1, "stopped") and mailbox.poll(1)[1] == ("left", "stopped")
    mailbox.post(2, ["payload"])
    assert mailbox.leave(1, "stopped")
    assert mailbox.next(1) == (2, ["payload"]) and mailbox.poll(2) == ([], None)
    assert not mailbox.leave(2, "its machine goes"), "what nobody stopped goes on in a new group"
