"""Slurm: a batch script; one task on each machine starts Ray there, the first runs the job."""

from __future__ import annotations

from raylm.cluster.contract import TOKEN_PATH
from raylm.cluster.specs.spec import Spec, header


def render(spec: Spec) -> str:
    """The script for `sbatch`. It stands in a folder that all machines see."""
    pool = spec.equal
    options = [
        f"--job-name={spec.name}",
        f"--nodes={pool.count}",
        "--ntasks-per-node=1",
        f"--cpus-per-task={pool.cpus}",
        f"--mem={pool.memory_gb}G",
        *([f"--gres=gpu:{pool.device + ':' if pool.device else ''}{pool.gpus}"] if pool.gpus else []),
        "--time=24:00:00",
        "--requeue",
        "--open-mode=append",
        f"--output={spec.name}-%j.log",
    ]
    told = header(
        spec, "Slurm", [f"sbatch {spec.file}", "# put back into the queue, or submitted again, it goes on from what is finished"]
    )
    return "\n".join(
        [
            "#!/usr/bin/env bash",
            *(f"#SBATCH {option}" for option in options),
            told.rstrip("\n"),
            "set -euo pipefail",
            'cd "$SLURM_SUBMIT_DIR"',
            "",
            "# Ray's token, in a file that only its owner reads; the folder is seen by all machines",
            "umask 077",
            f'export {TOKEN_PATH}="$SLURM_SUBMIT_DIR/.ray-token-$SLURM_JOB_ID"',
            f"head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \\n' > \"${TOKEN_PATH}\"",
            f"trap 'rm -f \"${TOKEN_PATH}\"' EXIT",
            'export RAYLM_HEAD_ADDRESS="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"',
            "",
            "# srun does not take over the cores of a task by itself (Slurm 22.05 and later): Ray would have one",
            f"srun --kill-on-bad-exit=1 --cpus-per-task={pool.cpus} "
            f".venv/bin/raylm cluster start {spec.stay}-- .venv/bin/{spec.command}",
            "",
        ]
    )
