"""SkyPilot: a task for `sky jobs launch`, which goes on after a spot machine is taken, or for `sky launch`, where it serves.

Keys: SkyPilot 0.14's task schema. Secrets stand in `secrets`, which its logs and its dashboard do not show, never in `envs`.
"""

from __future__ import annotations

from raylm.cluster.contract import TOKEN
from raylm.cluster.specs.spec import SECRETS, Spec, header, token_hint

NAMES = {"h100": "H100", "h200": "H200", "b200": "B200", "a100": "A100-80GB"}
"""SkyPilot's names of GPUs, by ours; others are the same in capitals."""
IDLE_MINUTES = 10


def render(spec: Spec) -> str:
    """The task as YAML. All its machines are equal; the first is Ray's head."""
    pool, serves = spec.equal, bool(spec.ports)
    lines = [_header(spec), f"name: {spec.name}", f"num_nodes: {pool.count}", "workdir: .", "", "resources:"]
    if pool.gpus:
        lines.append(f"  accelerators: {gpu_name(pool.device)}:{pool.gpus}")
    lines += [f"  cpus: {pool.cpus}+", f"  memory: {pool.memory_gb}+", f"  disk_size: {pool.disk_gb}"]
    if spec.image:
        lines.append(f"  image_id: docker:{spec.image}")
    if serves:
        lines += ["  # an endpoint is no job that ends: `sky down` when it is not needed any more"]
        lines += ["  ports:", *(f"    - {port}" for port in spec.ports)]
    elif pool.spot:
        lines += [
            "  # every stage goes on where it was: machines that can be taken away cost a third",
            "  use_spot: true",
            "  job_recovery:",
            "    strategy: EAGER_NEXT_REGION",
            "    max_restarts_on_errors: 2",
        ]
    if not serves:
        lines += [
            "  # for `sky launch`; not every cloud can stop machines by itself: leave it out on Slurm",
            f"  autostop: {{idle_minutes: {IDLE_MINUTES}, down: true}}",
        ]
    lines += ["", "secrets:", *(f"  {name}: null" for name in (TOKEN, *_needed(spec))), ""]
    lines += ["setup: |", "  make install", ""]
    lines += [
        "run: |",
        "  # starts Ray on this machine with token and pinned ports; the head runs the job when all machines have joined",
        f"  exec .venv/bin/raylm cluster start {spec.stay}-- .venv/bin/{spec.command}",
        "",
    ]
    return "\n".join(lines)


def gpu_name(device: str) -> str:
    """What SkyPilot calls a GPU."""
    return NAMES.get(device, device.upper())


def _needed(spec: Spec) -> tuple[str, ...]:
    return SECRETS[:1] if spec.ports else ()


def _header(spec: Spec) -> str:
    given = " ".join(f"--secret {name}" for name in (TOKEN, *_needed(spec)))
    if spec.ports:
        how = [token_hint(), f"sky launch -c {spec.name} {given} {spec.file}", f"sky status --endpoints {spec.name}"]
    else:
        how = [token_hint(), f"sky jobs launch -n {spec.name} {given} {spec.file}", f"sky jobs logs -n {spec.name}"]
    return header(
        spec, "SkyPilot", [*how, "further secrets (HF_TOKEN, a bucket's keys): a line under `secrets`, and --secret NAME"]
    )
