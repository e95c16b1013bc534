"""Runs that lose a rank, their driver or a machine to kill -9: their results are the same."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from raylm.core.artifact import Tokens
from raylm.core.metrics import read_metrics
from raylm.core.storage import Folder
from raylm.data.shards import read_parquet
from raylm.parallel.group.driver import hold_ranks
from raylm.train.stage import run
from raylm.trainer.ledger import LEDGER
from tests.rows import counting_rows, make_rows
from tests.stages import context
from tests.train.survive import STEPS, after_step, config

pytestmark = pytest.mark.ray
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def root(tmp_path_factory, workers):
    """A job's folder with rows and a run that nothing disturbed."""
    at = tmp_path_factory.mktemp("job")
    make_rows(at, "tokens", Tokens, counting_rows(40), length=16)
    run(config(), context(at, "base", config(), workers))
    return at


def assert_as_undisturbed(root: Path, name: str) -> None:
    """Every row once and with the same numbers, the same ledger, the same weights to the bit, no scaffold left."""
    base, found = (read_metrics(Folder(root / each)) for each in ("base", name))
    assert [row["step"] for row in found] == list(range(STEPS))
    for key in ("loss", "grad_norm", "held_out_loss"):
        assert [row.get(key) for row in found] == [row.get(key) for row in base], key
    ledgers = [read_parquet(Folder(root / each), LEDGER) for each in ("base", name)]
    assert len(ledgers[0]) == STEPS * 6 and ledgers[1].equals(ledgers[0])
    weights = [(root / each / "model.safetensors").read_bytes() for each in ("base", name)]
    assert weights[0] == weights[1]
    assert not (root / name / "_work").exists()


def survive(*arguments: str) -> subprocess.CompletedProcess:
    # what this process knows of its own cluster must not lead the other one there
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    command = [sys.executable, "-m", "tests.train.survive", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=clean, timeout=600)


def test_a_killed_rank(root, workers):
    ctx = context(root, "rank", config(), workers)
    pids = hold_ranks(workers, config().workers).pids()
    heard = after_step(ctx, 5, lambda: os.kill(pids[1], signal.SIGKILL))
    run(config(), ctx)
    assert heard.count(11) == 1 and len(heard) > STEPS, "no step was done again: the rank did not die"
    assert_as_undisturbed(root, "rank")


# a job whose driver is killed in training: tests/flow/test_road.py; the same ledger and bits after a resume: test_resume.py
@pytest.mark.long
def test_a_killed_driver(root, workers):
    done = survive("driver", str(root), "driver")
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert (root / "driver" / "_work").exists()
    ctx = context(root, "driver", config(), workers)
    heard = after_step(ctx, -1, lambda: None)
    run(config(), ctx)
    assert heard[0] in (4, 6), "it began anew, or had not been killed"
    assert_as_undisturbed(root, "driver")


def heard_of(done: subprocess.CompletedProcess) -> list[int]:
    assert done.returncode == 0, done.stderr
    return [int(step) for step in done.stdout.split("heard [")[1].split("]")[0].split(",")]


@pytest.mark.long
def test_a_machine_that_ray_takes_away_costs_no_step(root):
    done = survive("drained", str(root), "drained")
    assert heard_of(done) == list(range(STEPS))
    assert "Ray takes away the node of ranks [" in done.stderr
    assert_as_undisturbed(root, "drained")


@pytest.mark.long
def test_a_machine_that_is_switched_off(root):
    done = survive("host", str(root), "host")
    assert len(heard_of(done)) > STEPS, "no step was done again: the machine did not die"
    assert_as_undisturbed(root, "host")
