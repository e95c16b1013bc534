"""Processes that are forked by one that has imported what they need."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pytest

from raylm.inference.zygote import spawn

IMPORTS = ("colorsys", "no.such.module")


def gone(pid, seconds=10.0):
    """Whether a process ends in time; one that nobody has waited for yet has ended too."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            with open(f"/proc/{pid}/stat") as stat:
                if stat.read().rsplit(")", 1)[1].split()[0] == "Z":
                    return True
        except FileNotFoundError:
            return True
        time.sleep(0.02)
    return False


def parent(pid):
    with open(f"/proc/{pid}/stat") as stat:
        return int(stat.read().rsplit(")", 1)[1].split()[1])


@pytest.fixture
def owner(tmp_path, monkeypatch):
    """A process whose end is the zygote's."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def test_a_forked_process_has_the_imports_and_the_environment_of_who_asked(owner, tmp_path, monkeypatch):
    monkeypatch.setenv("MARK", "one")
    first = spawn("tests.inference.forked:tell", IMPORTS, owner.pid, 60)
    said = json.loads(first.channel.recv(1000))
    assert said == {"pid": first.pid, "cwd": os.getcwd(), "mark": "one", "imported": True}
    # another variable, the same zygote
    monkeypatch.setenv("MARK", "two")
    second = spawn("tests.inference.forked:tell", IMPORTS, owner.pid, 60)
    assert json.loads(second.channel.recv(1000))["mark"] == "two"
    assert parent(first.pid) == parent(second.pid)
    zygote = parent(first.pid)
    # its end hears of the end of this one, and this one of its
    first.channel.close()
    assert gone(first.pid)
    os.kill(second.pid, 9)
    assert second.channel.recv(1) == b""
    owner.kill()
    assert gone(zygote)


def test_what_is_read_at_import_gets_a_zygote_of_its_own(owner, monkeypatch):
    one = spawn("tests.inference.forked:tell", IMPORTS, owner.pid, 60)
    monkeypatch.setenv("VLLM_ANYTHING", "1")
    other = spawn("tests.inference.forked:tell", IMPORTS, owner.pid, 60)
    assert one.channel.recv(1000) and other.channel.recv(1000)
    assert parent(one.pid) != parent(other.pid)


def test_an_entry_that_fails_ends_its_process_alone(owner):
    failed = spawn("tests.inference.forked:fail", IMPORTS, owner.pid, 60)
    assert failed.channel.recv(1) == b""
    again = spawn("tests.inference.forked:linger", IMPORTS, owner.pid, 60)
    assert int(again.channel.recv(100)) == again.pid
    os.kill(again.pid, 9)
