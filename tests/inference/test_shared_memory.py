"""Memory that another process reads in place, and that its writer's death does not take from it."""

from __future__ import annotations

import subprocess
import sys

import numpy as np

from raylm.inference.shared_memory import HEADER, Mapped, Maps, SharedMemory, shares

WRITER = """
import sys, time
from raylm.inference.shared_memory import SharedMemory
memory = SharedMemory()
memory.label("seven")
memory.slot(100, 3)[:] = 7
print(memory.path, flush=True)
time.sleep(100)
"""


def test_another_process_reads_it_after_its_writer_was_killed():
    with subprocess.Popen([sys.executable, "-c", WRITER], stdout=subprocess.PIPE, text=True) as writer:
        path = writer.stdout.readline().strip()  # type: ignore[union-attr]
        assert shares(path, "seven") and not shares(path, "eight")
        mapped = Mapped(path)
        writer.kill()
    assert mapped.view(HEADER + 100, 3).tolist() == [7] * 3
    assert not shares(path, "seven"), "it has no name that outlives its writer"


def test_it_grows_and_what_was_given_out_stays_valid():
    memory, maps = SharedMemory(), Maps()
    early = memory.slot(0, 4)
    first = maps.of(memory.path)
    memory.slot(1 << 20, 4)[:] = 9
    early[:] = 5
    assert memory.slot(0, 4).tolist() == [5] * 4
    assert maps.of(memory.path) is first, "mapped once"
    assert maps.of(memory.path, HEADER + (1 << 20) + 4).view(HEADER + (1 << 20), 4).tolist() == [9] * 4
    assert maps.has(maps.of(memory.path).view(0).ctypes.data + HEADER) and not maps.has(np.zeros(1).ctypes.data)
