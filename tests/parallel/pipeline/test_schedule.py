"""Schedules: every pass once, in an executable order, few activations held, and no deadlock under blocking sends."""

from __future__ import annotations

from collections import Counter, deque

import pytest

from raylm.parallel.pipeline.schedule import Action, pipeline_schedule, place

CASES = [
    (schedule, ranks, micros)
    for schedule in ("1f1b", "interleaved", "zero_bubble")
    for ranks in (2, 3, 5)
    for micros in (1, 2, 7, 12)
]


def test_one_f_one_b_by_hand():
    """Two ranks, three micro batches (Megatron, figure 4, cut to this size)."""
    found = [[f"{a.what[0]}{a.micro}" for a in rank if "_" not in a.what] for rank in pipeline_schedule("1f1b", 2, 3).actions]
    assert found == [["f0", "f1", "b0", "f2", "b1", "b2"], ["f0", "b0", "f1", "b1", "f2", "b2"]]


def test_stages_are_placed_round_robin_or_in_a_v():
    assert place("1f1b", 3) == [0, 1, 2]
    assert place("interleaved", 2, virtual=3) == [0, 1, 0, 1, 0, 1]
    assert place("zero_bubble", 3) == [0, 1, 2, 2, 1, 0]


@pytest.mark.parametrize(("schedule", "ranks", "micros"), CASES)
@pytest.mark.parametrize("learn", [True, False])
def test_every_pass_once_and_every_message_at_both_ends(schedule, ranks, micros, learn):
    at = place(schedule, ranks)
    counted = Counter(action for rank in pipeline_schedule(schedule, ranks, micros, learn=learn).actions for action in rank)
    passes = ["forward"]
    if learn:
        passes += ["input", "weight"] if schedule == "zero_bubble" else ["backward"]
    wanted = [Action(what, stage, micro) for what in passes for stage in range(len(at)) for micro in range(micros)]
    for stage in range(len(at) - 1):
        if at[stage] != at[stage + 1]:
            for micro in range(micros):
                wanted += [Action("send_hidden", stage, micro), Action("receive_hidden", stage + 1, micro)]
                if learn:
                    wanted += [Action("send_gradient", stage + 1, micro), Action("receive_gradient", stage, micro)]
    assert counted == Counter(wanted)


@pytest.mark.parametrize(("schedule", "ranks", "micros"), CASES)
def test_it_runs_where_a_sender_waits_for_its_receiver(schedule, ranks, micros):
    """Rendezvous: a send ends only together with its receive, as with NCCL. Nothing computes before what it needs is there."""
    at = place(schedule, ranks)
    todo = [deque(rank) for rank in pipeline_schedule(schedule, ranks, micros).actions]
    have: list[set] = [set() for _ in range(ranks)]
    while any(todo):
        moved = False
        for rank, left in enumerate(todo):
            if not left:
                continue
            action = left[0]
            if action.what.startswith("send"):
                kind = action.what.removeprefix("send_")
                to = action.stage + (1 if kind == "hidden" else -1)
                twin = Action(f"receive_{kind}", to, action.micro)
                if not todo[at[to]] or todo[at[to]][0] != twin:
                    continue
                todo[at[to]].popleft()
                have[at[to]].add((kind, to, action.micro))
            elif action.what.startswith("receive") or not _needed(action, len(at)) <= have[rank]:
                continue
            else:
                have[rank] |= _made(action, at, rank)
            left.popleft()
            moved = True
        assert moved, [left[0] if left else None for left in todo]


def _needed(action, num_stages):
    _, stage, micro = action
    if action.what == "forward":
        return {("hidden", stage, micro)} if stage else set()
    if action.what == "weight":
        return {("input", stage, micro)}
    return {("forward", stage, micro)} | ({("gradient", stage, micro)} if stage < num_stages - 1 else set())


def _made(action, at, rank):
    what, stage, micro = action
    made = {(what, stage, micro)}
    if what == "forward" and stage + 1 < len(at) and at[stage + 1] == rank:
        made.add(("hidden", stage + 1, micro))
    if what in ("input", "backward") and stage and at[stage - 1] == rank:
        made.add(("gradient", stage - 1, micro))
    return made


@pytest.mark.parametrize(("schedule", "most"), [("1f1b", 4), ("interleaved", 11), ("zero_bubble", 10)])
def test_few_activations_are_held(schedule, most):
    """Of 4 ranks, in stages; published: ranks, (virtual + 1) * ranks - 1 and, greedy, 2 * ranks + 2."""
    for rank in pipeline_schedule(schedule, 4, 32).actions:
        held = peak = 0
        for action in rank:
            held += (action.what == "forward") - (action.what in ("backward", "weight"))
            peak = max(peak, held)
        assert held == 0 and peak <= most
