"""One cluster and two jobs, each of which fits and both of which do not: the second waits with a word and
then has all its places, keeps them when a rank dies, and gives them back."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest


@pytest.mark.ray
def test_two_jobs_on_a_cluster_for_one_do_not_lock_each_other_up(tmp_path):
    command = [sys.executable, "-m", "tests.parallel.group.shared_run", "main", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert re.search(r"second waits for 3 CPUs \(1 generator, 2 ranks\): 1 of 4 CPU free", told["said"])
    # all places at once, none beside them, the same ones after a rank's death, given back with the last thing in them
    assert told["free"] == 1
    assert told["before"]["place"] == told["after"]["place"] == told["held"]
    assert told["before"]["pid"] != told["after"]["pid"]
    assert told["before"]["sum"] == told["after"]["sum"] == 2
    assert told["before"]["interface"]
    assert told["state"] == "REMOVED"
    # a folder that exists on the driver's side alone
    assert re.search(r"is on this machine alone: \S+ does not see it\n  next: --set root=/shared/", told["refused"])
    assert not list(tmp_path.iterdir())
