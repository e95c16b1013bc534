"""The journal of answers: what a killed process wrote is read, a line that was cut short is not."""

from __future__ import annotations

import math
import signal
import subprocess
import sys

from raylm.core.storage import Folder
from raylm.evaluate.journal import Journal


def test_answers_of_all_processes_before_are_known(tmp_path):
    for number in range(3):
        held = Journal(Folder(tmp_path))
        assert held.found == {str(at): [at, "ü\n"] for at in range(number)}
        held.add(str(number), [number, "ü\n"])
    held.add("nan", [math.nan])
    held.flush()
    assert math.isnan(Journal(Folder(tmp_path)).found["nan"][0])
    assert len(list(tmp_path.iterdir())) == 3


def test_a_line_that_a_crash_cut_short_is_left_out(tmp_path):
    held = Journal(Folder(tmp_path))
    held.add("a", 1)
    held.add("b", {"long": "x" * 50})
    file = next(tmp_path.iterdir())
    whole = file.read_bytes()
    for cut in range(whole.index(b"\n") + 1, len(whole) - 1):
        file.write_bytes(whole[:cut])
        assert Journal(Folder(tmp_path)).found == {"a": 1}
    again = Journal(Folder(tmp_path))
    again.add("b", 2)
    assert Journal(Folder(tmp_path)).found == {"a": 1, "b": 2}


def test_a_killed_process_loses_nothing_that_it_kept(tmp_path):
    script = (
        "import os, sys; from raylm.core.storage import Folder; from raylm.evaluate.journal import Journal\n"
        "held = Journal(Folder(sys.argv[1]))\nfor at in range(100): held.add(str(at), at)\nos.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert Journal(Folder(tmp_path)).found == {str(at): at for at in range(100)}


def test_in_a_bucket_answers_are_objects_of_many(tmp_path):
    folder = Folder("memory://journal-of-answers/one")
    held = Journal(folder)
    for at in range(70):
        held.add(str(at), at)
    assert len(folder.files()) == 1
    held.flush()
    assert Journal(folder).found == {str(at): at for at in range(70)}
    assert Journal(None).found == {}
