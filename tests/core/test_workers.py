"""More work than cores: a waiting task is reported as one, and its result and errors come through."""

from __future__ import annotations

import re
import time

import pytest

from raylm.core import room
from raylm.core.config import Role, WorkerSpec
from raylm.core.errors import ConfigError, PlacementError
from raylm.core.workers import finish_task, start_task

pytestmark = pytest.mark.ray


def add(left: int, right: int) -> int:
    return left + right


def refuse() -> None:
    raise ConfigError("no such method", where="stages.small", next="read the list")


def test_a_task_that_waits_for_cores_says_so_and_one_that_runs_does_not(workers, capsys, monkeypatch):
    import ray

    workers.ensure()
    monkeypatch.setattr(room, "SAY_S", 0.5)
    # what other tests left has cores
    workers.release()
    has = int(ray.cluster_resources()["CPU"])
    until = time.monotonic() + 60
    while ray.available_resources().get("CPU", 0) < has and time.monotonic() < until:
        time.sleep(0.1)
    long, wide = WorkerSpec(), WorkerSpec(cpus=has)
    first = start_task(time.sleep, long, 4)
    until = time.monotonic() + 30
    while ray.available_resources().get("CPU", 0) == has and time.monotonic() < until:
        time.sleep(0.1)
    second = start_task(add, wide, 2, 3)
    assert finish_task(second, wide, 60, "small") == 5
    said = capsys.readouterr().err
    assert f"small waits for {has} CPUs (1 worker): {has - 1} of {has} CPU free" in said
    finish_task(first, long, 60, "sleep")
    running = start_task(time.sleep, wide, 3)
    finish_task(running, wide, 60, "sleep")
    assert "sleep" not in capsys.readouterr().err


def test_what_a_task_raises_is_raised(workers):
    workers.ensure()
    with pytest.raises(ConfigError, match=r"stages\.small: no such method"):
        finish_task(start_task(refuse, WorkerSpec()), WorkerSpec(), 60, "small")


def test_a_task_has_a_deadline(workers):
    workers.ensure()
    with pytest.raises(PlacementError, match="for small; the cluster has"):
        finish_task(start_task(time.sleep, WorkerSpec(), 5), WorkerSpec(), 1, "small")


def test_machines_that_a_run_has_seen_are_waited_for_and_others_are_not(workers, capsys, monkeypatch):
    workers.ensure()
    roles = {"worker": Role(gpus=1.0, cpus=0.1)}
    began = time.monotonic()
    with pytest.raises(PlacementError, match="the whole cluster has 0"):
        workers.check_room(roles, "scores")
    assert time.monotonic() - began < 5
    monkeypatch.setattr(room, "SAY_S", 0.5)
    monkeypatch.setattr("raylm.core.workers.RETURN_S", 2.0)
    # there was such a machine when the run began
    monkeypatch.setattr(workers, "_largest", [*room.nodes(), room.Node("10.0.0.2", {"GPU": 1.0, "CPU": 4.0})])
    with pytest.raises(PlacementError, match="no machine came back within 2 s"):
        workers.check_room(roles, "scores")
    assert re.search(r"scores waits for .*1 GPU .*; 1 of 2 machines are left", capsys.readouterr().err)
