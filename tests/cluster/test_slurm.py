"""The script that is rendered for Slurm, run by Slurm on two hosts (network namespaces): put back into its queue, a job ends as
an undisturbed one does."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from raylm.cluster.machines import Pool
from raylm.cluster.specs import slurm as spec_of_slurm
from raylm.cluster.specs.spec import Spec
from tests.cluster.hosts import Hosts, cannot
from tests.cluster.job_on_hosts import Run, digests
from tests.cluster.losses import whole_training
from tests.cluster.slurm_on_hosts import Slurm, missing

WHY = cannot() or missing()
pytestmark = [pytest.mark.ray, pytest.mark.long, pytest.mark.skipif(bool(WHY), reason=WHY or "-")]
STEPS, SAVE_EVERY = 100, 20
LIMIT_S = 270.0


def submitted(slurm: Slurm, run: Run) -> str:
    """The job of `run`, by the script that `raylm cluster render --to slurm` writes; its number."""
    machine = Pool("head", 2, cpus=4, memory_gb=8, disk_gb=10)
    spec = Spec("hosts", str(run.job), ("raylm", "run", str(run.job)), (machine,), machine, ())
    script = run.folder / "job.sh"
    script.write_text(spec_of_slurm.render(spec))
    return slurm.submit(script)


def until(slurm: Slurm, job: str, states: tuple[str, ...], folder: Path) -> str:
    deadline = time.monotonic() + LIMIT_S
    while (state := slurm.state(job)) not in states:
        said = "".join(path.read_text() for path in folder.glob("raylm-hosts-*.log"))
        assert state in ("PENDING", "RUNNING", "CONFIGURING", "COMPLETING", "REQUEUED") and time.monotonic() < deadline, (
            state,
            said,
        )
        time.sleep(1)
    return state


def test_a_job_that_is_put_back_into_the_queue_ends_as_an_undisturbed_one(tmp_path):
    runs = []
    with Hosts(2, tmp_path) as hosts, Slurm(hosts, tmp_path / "slurm") as slurm:
        for name in ("undisturbed", "requeued"):
            folder = tmp_path / name
            folder.mkdir()
            run = Run(hosts, folder, steps=STEPS, save_every=SAVE_EVERY, batch=32)
            runs.append(run)
            job = submitted(slurm, run)
            if name == "requeued":
                deadline = time.monotonic() + LIMIT_S
                while run.step() < 2 * SAVE_EVERY:
                    assert time.monotonic() < deadline and slurm.state(job) in ("PENDING", "RUNNING", "CONFIGURING")
                    time.sleep(0.2)
                assert slurm.run("scontrol", "requeue", job) == ""
                until(slurm, job, ("PENDING",), folder)
                # Slurm itself would let it wait for two minutes
                slurm.run("scontrol", "update", f"jobid={job}", "StartTime=now")
            until(slurm, job, ("COMPLETED",), folder)
    one, other = runs
    log = (other.folder / f"raylm-hosts-{job}.log").read_text()
    assert "questions: ready" in log and "dialogues: ready" in log
    for stage in ("questions", "dialogues"):
        assert digests(one, stage) == digests(other, stage)
    assert whole_training(one, STEPS) and whole_training(other, STEPS)
    losses = [[row["loss"] for row in run.rows() if "loss" in row] for run in runs]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
    # the token lay in a file of its own, and is gone with the job
    assert not list(Path(os.getcwd()).glob(".ray-token-*"))
