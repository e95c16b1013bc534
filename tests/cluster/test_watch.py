"""Machines of a cluster that go and come, as somebody who follows a job there reads of them."""

from __future__ import annotations

from raylm.cluster.watch import Machine, MachineWatch


def machine(name: str, alive: bool = True, why: str = "") -> Machine:
    return Machine(name, f"10.0.0.{name[1]}", alive, why)


def test_what_went_and_what_came_is_said_once():
    lines: list[str] = []
    seen = iter(
        [
            [machine("a1"), machine("b2")],
            None,
            [machine("a1"), machine("b2", alive=False, why="health check failed\nmore")],
            [machine("a1"), machine("b2", alive=False, why="health check failed\nmore")],
            # it comes back at its old address as another node of Ray's
            [machine("a1"), machine("b2", alive=False), machine("c2")],
        ]
    )
    watch = MachineWatch(lambda: next(seen), lines.append)
    for _ in range(5):
        watch.look()
    assert lines == [
        "machine 10.0.0.2 is lost (health check failed): 1 of 2 are left",
        "machine 10.0.0.2 has joined: 2 now",
    ]


def test_a_cluster_that_cannot_be_asked_is_no_lost_machine():
    lines: list[str] = []
    seen = iter([None, [machine("a1")], None, [machine("a1")]])
    watch = MachineWatch(lambda: next(seen), lines.append)
    for _ in range(4):
        watch.look()
    assert lines == []
