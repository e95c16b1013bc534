"""A disk that fills up under a job: a sentence, nothing half-written, and the same command goes on once there is room."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from raylm.core.artifact import MANIFEST
from raylm.core.workers import SUBMITTED

JOB = """
name = "full"
root = "{root}"
[stages.corpus]
stage = "prepare"
source = {{kind = "python_library", max_bytes = 1_500_000}}
[stages.tokens]
stage = "tokenize"
documents = "corpus"
tokenizer = {{kind = "bpe", vocab_size = 300}}
form = {{kind = "text", length = 64}}
[stages.base]
stage = "train"
rows = "tokens"
model = {{kind = "llama", hidden_size = 256, num_layers = 2, num_heads = 4}}
batch = 2
steps = 6
save_every = 2
held_out_rows = 4
"""


def grow(disk: Path, size: str) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(disk)], check=True)


@pytest.fixture
def disk(tmp_path):
    """A file system of 250 kB."""
    at = tmp_path / "disk"
    at.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=250k", "tmpfs", str(at)], capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system takes a root user, or a container that allows it")
    yield at
    subprocess.run(["umount", "-l", str(at)], check=True)


@pytest.mark.ray
@pytest.mark.long
def test_a_job_says_that_the_disk_is_full_and_goes_on_when_it_is_not(disk, tmp_path, workers):
    import ray

    job = tmp_path / "full.toml"
    job.write_text(JOB.format(root=disk))
    workers.ensure()
    # as under `ray job submit`: what starts three times is the job, not Ray
    cluster = {SUBMITTED: "{}", "RAY_ADDRESS": ray.get_runtime_context().gcs_address}

    def run() -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "raylm", "run", str(job)]
        return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | cluster)

    done = run()
    assert done.returncode == 1
    assert "disk is full" in done.stderr and "Traceback" not in done.stderr
    assert not (disk / "full" / "corpus" / MANIFEST).exists()

    # room for documents and tokens, and not for a step checkpoint of 19 MB
    grow(disk, "14m")
    done = run()
    assert done.returncode == 1
    assert (disk / "full" / "tokens" / MANIFEST).exists(), done.stderr
    assert "a step checkpoint could not be written" in done.stderr and "Traceback" not in done.stderr
    assert not (disk / "full" / "base" / MANIFEST).exists()

    grow(disk, "200m")
    done = run()
    assert done.returncode == 0, done.stderr
    assert "tokens: ready" in done.stdout
