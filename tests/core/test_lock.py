"""The lease of a job's folder in a bucket, on a local S3 server: one of two has it, a dead one's expires."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from raylm.core.artifact import MANIFEST, Documents
from raylm.core.context import Context
from raylm.core.errors import PlanError, StorageError
from raylm.core.lock import _HELD, Lease, _is_dead, _name, _process, check, locked
from raylm.core.storage import Folder
from raylm.core.workers import Workers
from tests.buckets import local_bucket

# refused as soon as a beat is seen; long enough that no lease expires where the machine is busy
FAST: dict[str, Any] = {"beat_s": 0.2, "lease_s": 30.0, "lost": lambda why: print(why, file=sys.stderr)}


@pytest.fixture(scope="module")
def bucket():
    with local_bucket("locks"):
        yield "s3://locks"


def elsewhere(folder: Folder, beats: int = 0) -> None:
    """The lease of a run on another machine, that beats no more."""
    told = {"run": "x", "who": "ann on far", "process": "other-boot pid:[1] 7 1", "since": "2026-01-01 00:00:00", "beats": beats}
    folder.write(_name(3), json.dumps(told))


def test_a_second_run_is_refused_with_who_holds_it_and_has_it_when_that_one_has_ended(bucket):
    folder = Folder(f"{bucket}/a")
    first, second = Lease(folder, **FAST), Lease(folder, **FAST)
    first.take()
    with pytest.raises(PlanError, match=f"another run of this job is going on: .* on {os.uname().nodename}, since"):
        second.take()
    first.give_back()
    began = time.monotonic()
    second.take()
    assert time.monotonic() - began < FAST["lease_s"]
    second.give_back()
    assert folder.names() == []


def test_of_many_at_once_one_has_it(bucket):
    folder = Folder(f"{bucket}/b")

    def taken(lease: Lease) -> bool:
        try:
            lease.take()
        except PlanError:
            return False
        return True

    leases = [Lease(folder, **FAST) for _ in range(6)]
    with ThreadPoolExecutor(6) as pool:
        won = list(pool.map(taken, leases))
    assert sum(won) == 1
    leases[won.index(True)].give_back()


def test_a_lease_that_nobody_renews_expires_and_its_holder_ends_when_it_lives_after_all(bucket):
    folder, said = Folder(f"{bucket}/c"), list[str]()
    silent = Lease(folder, beat_s=1000.0, lost=said.append)
    silent.take()
    began = time.monotonic()
    # from another machine its process cannot be seen
    elsewhere_told = json.loads(folder.read(_name(1))) | {"process": ""}
    folder.write(_name(1), json.dumps(elsewhere_told))
    other = Lease(folder, **FAST | {"lease_s": 1.0})
    other.take()
    assert time.monotonic() - began >= 1.0
    assert folder.names() == [_name(2)] and not said
    # its next beat
    silent._beat_s = 0.01
    silent._keep()
    assert said and "has taken over" in said[0]
    silent.give_back()
    # what the older one does at its end takes nothing from the newer
    assert folder.names() == [_name(2)]
    other.give_back()


def test_a_process_of_this_machine_that_is_gone_is_not_waited_for(bucket):
    folder = Folder(f"{bucket}/d")
    done = subprocess.run(
        [sys.executable, "-c", "import os; from raylm.core.lock import _process; print(_process(os.getpid()))"],
        capture_output=True,
        text=True,
        check=True,
    )
    gone = done.stdout.strip()
    assert _is_dead(gone) and not _is_dead(_process(os.getpid())) and not _is_dead("other-boot pid:[1] 7 1") and not _is_dead("")
    elsewhere(folder)
    folder.write(_name(3), json.dumps(json.loads(folder.read(_name(3))) | {"process": gone}))
    began = time.monotonic()
    with locked(folder):
        assert folder.names() == [_name(4)]
    assert time.monotonic() - began < 5 and folder.names() == []


class Failing(Folder):
    """A folder in memory whose writes fail as often as it is told, and which may lose an answer."""

    fails, answers_lost, fails_with = 0, 0, OSError(errno.EMFILE, "Too many open files")

    def write(self, name, content):
        if self.fails:
            self.fails -= 1
            raise self.fails_with
        super().write(name, content)

    def create(self, name, content):
        made = super().create(name, content)
        if made and self.answers_lost:
            self.answers_lost -= 1
            return False
        return made


@pytest.mark.parametrize("fault", [OSError(errno.EMFILE, "Too many open files"), ValueError("no JSON"), RuntimeError("closed")])
def test_a_fault_of_one_beat_ends_no_watch(fault, tmp_path, capsys):
    folder, said = Failing(f"memory://{tmp_path.name}"), list[str]()
    lease = Lease(folder, beat_s=0.02, lease_s=1.0, lost=said.append)
    lease.take()
    folder.fails, folder.fails_with = 2, fault
    until = time.monotonic() + 10
    while folder.fails and time.monotonic() < until:
        time.sleep(0.01)
    # another run has it now: this one must still see that
    elsewhere(folder)
    while not said and time.monotonic() < until:
        time.sleep(0.01)
    lease.give_back()
    assert "has taken over" in said[0] and "could not be renewed" in capsys.readouterr().err


def test_two_that_a_store_without_conditions_let_write_are_one_after_a_beat(tmp_path):
    folder, said = Folder(f"memory://{tmp_path.name}"), list[str]()
    first = Lease(folder, beat_s=0.02, lease_s=1.0, lost=said.append)
    first.take()
    until = time.monotonic() + 10
    while not said and time.monotonic() < until:
        # again: one write may fall between the other's look and its beat
        folder.write(_name(1), json.dumps(json.loads(folder.read(_name(1))) | {"run": "other"}))
        time.sleep(0.01)
    first.give_back()
    assert said and json.loads(folder.read(_name(1)))["run"] == "other"


def test_an_own_lease_whose_answer_was_lost_is_not_waited_for(tmp_path):
    folder = Failing(f"memory://{tmp_path.name}")
    folder.answers_lost = 1
    lease = Lease(folder, beat_s=5.0, lease_s=60.0)
    lease.take()
    assert folder.names() == [_name(1)]
    lease.give_back()
    assert folder.names() == []


def test_a_store_that_hides_what_it_has_is_said_and_not_asked_for_ever(tmp_path):
    class Hiding(Folder):
        def names(self):
            return []

    folder = Hiding(f"memory://{tmp_path.name}")
    folder.write(_name(1), "{}")
    with pytest.raises(StorageError, match="does not list it"):
        Lease(folder, **FAST).take()


def test_a_file_is_created_once(bucket, tmp_path):
    for folder in (Folder(tmp_path / "new"), Folder(f"{bucket}/e")):
        assert folder.names() == []
        assert folder.create("x", "one") and not folder.create("x", "two")
        assert folder.read("x") == b"one" and folder.names() == ["x"]


def test_a_lease_that_was_lost_publishes_nothing(tmp_path):
    """Cut off since its last beat: what it is about to commit is not the run's that writes now."""
    folder = Folder(f"memory://{tmp_path.name}/job")

    def lost(why: str) -> None:
        raise SystemExit(why)

    lease = Lease(folder, beat_s=1000.0, lost=lost)
    lease.take()
    _HELD.append(lease)
    try:
        made = Folder(f"{folder.uri}/docs")
        asked = {"config": {}, "identity": {}, "inputs": [], "fingerprint": "x"}
        ctx = Context(stage="docs", out=made, stages={}, workers=Workers(), **asked)
        ctx.commit(Documents, facts={})
        made.remove(MANIFEST)
        elsewhere(folder)
        with pytest.raises(SystemExit, match="another run has taken over"):
            ctx.commit(Documents, facts={})
        assert not made.exists(MANIFEST)
        # of another job's folder nobody asks
        check(Folder(f"{folder.uri}2/docs"))
    finally:
        _HELD.remove(lease)
        lease.give_back()
