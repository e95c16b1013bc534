"""The task that is rendered for SkyPilot, launched by SkyPilot on two machines of a Slurm (hosts made of network namespaces):
killed midway and launched the same again, it ends as an undisturbed one does."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
import yaml

from raylm.cluster.contract import TOKEN as TOKEN_NAME
from raylm.cluster.machines import Pool
from raylm.cluster.specs import sky as spec_of_sky
from raylm.cluster.specs.spec import Spec
from tests.cluster.hosts import Hosts, cannot
from tests.cluster.job_on_hosts import TOKEN, Run, digests
from tests.cluster.losses import whole_training
from tests.cluster.sky_on_hosts import Sky
from tests.cluster.sky_on_hosts import missing as no_sky
from tests.cluster.slurm_on_hosts import Slurm
from tests.cluster.slurm_on_hosts import missing as no_slurm

WHY = cannot() or no_slurm() or no_sky()
pytestmark = [pytest.mark.ray, pytest.mark.long, pytest.mark.skipif(bool(WHY), reason=WHY or "-")]
MACHINES, STEPS, SAVE_EVERY = 2, 100, 20
LIMIT_S = 900.0


def task(run: Run) -> Path:
    """What `raylm cluster render --to sky` writes, as a person changes it for a Slurm whose machines see this environment."""
    machine = Pool("head", MACHINES, cpus=4, memory_gb=8, disk_gb=10)
    spec = Spec("hosts", str(run.job), ("raylm", "run", str(run.job)), (machine,), machine, ())
    made = yaml.safe_load(spec_of_sky.render(spec))
    made["resources"] = {"infra": "slurm/hosts", "cpus": 4, "memory": 8}
    del made["setup"]
    # the machines share one file system, but for what is their own
    made["envs"] = {"PYTHONPATH": str(Path(__file__).resolve().parents[2]), "TMPDIR": "/mnt"}
    made["workdir"] = str(run.folder / "work")
    (run.folder / "work").mkdir()
    (run.folder / "work" / ".venv").symlink_to(sys.prefix)
    at = run.folder / "task.yaml"
    at.write_text(yaml.safe_dump(made))
    return at


def test_a_job_whose_machines_are_taken_away_ends_as_an_undisturbed_one(tmp_path):
    runs, seconds = [], {}
    with (
        Hosts(MACHINES + 1, tmp_path) as hosts,
        Slurm(hosts, tmp_path / "slurm", MACHINES) as slurm,
        Sky(hosts, slurm, tmp_path / "sky") as sky,
    ):
        for name in ("undisturbed", "killed"):
            folder = tmp_path / name
            folder.mkdir()
            run = Run(hosts, folder, machines=MACHINES, ranks=MACHINES, steps=STEPS, save_every=SAVE_EVERY, batch=32)
            runs.append(run)
            described, began = task(run), time.monotonic()
            launched = sky.launch(name, described, folder / "sky.log", **{TOKEN_NAME: TOKEN})
            if name == "killed":
                while run.step() < 2 * SAVE_EVERY:
                    assert launched.poll() is None and time.monotonic() < began + LIMIT_S, log(run)
                    time.sleep(0.2)
                began = time.monotonic()
                assert slurm.run("scancel", "--name", allocation(slurm)) == ""
                assert launched.wait(LIMIT_S) != 0, log(run)
                launched = sky.launch(name, described, folder / "sky.log", **{TOKEN_NAME: TOKEN})
            assert launched.wait(LIMIT_S) == 0, log(run)
            seconds[name] = round(time.monotonic() - began)
            down = sky.run("down", "-y", name)
            assert down.returncode == 0, down.stdout + down.stderr
    print("seconds", seconds)
    one, other = runs
    assert "questions: ready" in log(other) and "dialogues: ready" in log(other)
    for stage in ("questions", "dialogues"):
        assert digests(one, stage) == digests(other, stage)
    assert whole_training(one, STEPS) and whole_training(other, STEPS)
    losses = [[row["loss"] for row in run.rows() if "loss" in row] for run in runs]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
    assert TOKEN not in log(one) + log(other)


def log(run: Run) -> str:
    return (run.folder / "sky.log").read_text(errors="replace")


def allocation(slurm: Slurm) -> str:
    """Name of the one job that Slurm runs."""
    (name,) = slurm.run("squeue", "--noheader", "--format=%j").split()
    return name
