"""Hang detection: which rank is blamed; ranks that stop are found, examined, ended and named."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from raylm.core.config import WorkerSpec
from raylm.core.errors import PlacementError
from raylm.core.storage import Folder
from raylm.parallel.group import hang, watch
from raylm.parallel.group.driver import hold_ranks
from raylm.parallel.group.hang import Beat, blame, stands_still
from tests.parallel import tasks


def beat(rank: int, phase: str = "backward", still_s: float = 300.0, **values) -> Beat:
    usual = {"host": "h", "node": "n", "pid": 100 + rank, "marks": 9, "step": 7, "silent_s": 1.0}
    return Beat(rank=rank, phase=phase, still_s=still_s, **usual | values)


WAITS = {"waits_in": ["gloo:all_reduce #4 of default_pg [[3]]"]}
FREE = {"waits_in": []}


def test_a_group_stands_still_when_its_last_mover_does():
    assert not stands_still([beat(0), beat(1, still_s=20.0)], 60.0)
    assert stands_still([beat(0), beat(1, still_s=61.0)], 60.0)
    assert stands_still([beat(0), beat(1, "idle", 1.0)], 60.0), "a rank that has nothing to do holds nobody up"
    assert not stands_still([beat(0, "idle"), beat(1, "idle")], 60.0)
    assert not stands_still([], 60.0)


def test_reading_weights_is_no_hang_until_it_takes_too_long():
    assert not stands_still([beat(0, "load"), beat(1, "start")], 60.0), "the others wait for what one reads"
    assert stands_still([beat(0, "load", still_s=4000.0), beat(1, "start", still_s=4000.0)], 60.0)


@pytest.mark.parametrize(
    ("beats", "told", "kind", "ranks"),
    [
        ([beat(0), beat(1)], {0: WAITS, 1: {"state": "process state T (stopped)"}}, "silent", [1]),
        ([beat(0), beat(1, "data"), beat(2)], {0: WAITS, 1: FREE, 2: WAITS}, "data", [1]),
        ([beat(0), beat(1)], {0: WAITS, 1: FREE}, "behind", [1]),
        ([beat(0), beat(1, marks=8)], {0: WAITS, 1: WAITS}, "behind", [1]),
        ([beat(0), beat(1)], {0: WAITS, 1: WAITS}, "collective", [0, 1]),
    ],
)
def test_who_is_blamed(beats, told, kind, ranks):
    found = blame(beats, told)
    assert (found.kind, [one.rank for one in found.culprits]) == (kind, ranks)
    said = found.words(told)
    assert "hang at step 7: rank" in said and "gloo:all_reduce #4 of default_pg" in said
    assert (kind == "data") == ("data stall" in said)
    text = hang.hang_report(found, beats, told)
    assert all(f"rank {one.rank} (host h, pid {one.pid})" in text for one in beats)


@pytest.fixture
def group(workers):
    # it stays for the next module: starting one costs more than what most tests do with it
    return hold_ranks(workers, WorkerSpec(count=2, hang_s=4.0))


@pytest.mark.ray
def test_a_stopped_process_is_found_and_the_task_goes_on_in_a_new_group(group, tmp_path, capsys, monkeypatch):
    # a stopped rank never answers
    monkeypatch.setattr(watch, "ANSWER_S", 4.0)
    pids, stopped = group.pids(), []

    def stop_one(kind, values):
        if not stopped:
            stopped.append(pids[1])
            os.kill(pids[1], signal.SIGSTOP)

    assert group.call(tasks.meet_often, 60, on_row=stop_one, aside=Folder(tmp_path))[0] == 120.0
    assert not set(pids) & set(group.pids())
    said = capsys.readouterr().err
    assert f"rank 1 (host {os.uname().nodename}, pid {pids[1]}) gave no sign of life" in said
    (text,) = [path.read_text() for path in tmp_path.glob("hang-*.txt")]
    assert "process state T (stopped)" in text and "1 ranks wait in gloo:all_reduce" in text
    assert 'tasks.py", line' in text and "in meet_often" in text, "the stack of the rank that waits"


@pytest.mark.ray
@pytest.mark.long
def test_a_data_stall_is_told_from_a_hung_collective_and_ends_the_run_the_second_time(group, tmp_path):
    with pytest.raises(PlacementError, match=r"hang at step 2: rank 1 .* is reading rows .* a data stall") as caught:
        group.call(tasks.sit_still, 1, 4, "data", aside=Folder(tmp_path))
    assert "1 ranks wait in gloo:all_reduce" in caught.value.what
    assert caught.value.where.startswith(str(tmp_path)) and len(list(tmp_path.glob("hang-step-2-*.txt"))) == 2
    assert "in sit_still" in Path(caught.value.where).read_text()
