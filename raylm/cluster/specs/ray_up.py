"""Ray's own cluster launcher, `ray up`: machines of a cloud, replaced when they are lost.

Written for AWS; for another cloud `provider` and each `node_config` are its own (Ray's reference of cluster YAML).
"""

from __future__ import annotations

from raylm.cluster.machines import Pool
from raylm.cluster.specs.spec import Spec, header

GPU_INSTANCES = {
    "h100": ((1, 16, "p5.4xlarge"), (8, 192, "p5.48xlarge")),
    "h200": ((8, 192, "p5en.48xlarge"),),
    "b200": ((8, 192, "p6-b200.48xlarge"),),
    "a100": ((8, 96, "p4de.24xlarge"),),
    "a100-40gb": ((8, 96, "p4d.24xlarge"),),
    "l40s": ((1, 32, "g6e.8xlarge"), (4, 96, "g6e.24xlarge"), (8, 192, "g6e.48xlarge")),
}
"""GPUs and cores of one machine, and AWS's name of it."""
CPU_INSTANCES = (
    (2, "large"),
    (4, "xlarge"),
    (8, "2xlarge"),
    (16, "4xlarge"),
    (32, "8xlarge"),
    (48, "12xlarge"),
    (64, "16xlarge"),
)
"""Cores and sizes of a family with 4 GB a core."""
_PATH = 'PATH="$HOME/raylm/.venv/bin:$PATH"'


def render(spec: Spec) -> str:
    """The file for `ray up`: the head, and all machines that the job needs."""
    lines = [
        _header(spec).rstrip("\n"),
        f"cluster_name: {spec.name}",
        f"max_workers: {sum(pool.count for pool in spec.pools) - 1}",
        "",
        "provider:",
        "  type: aws",
        "  region: us-east-1",
        "  cache_stopped_nodes: false",
        "",
        "auth:",
        "  ssh_user: ubuntu",
        "",
    ]
    if spec.image:
        lines += ["docker:", f"  image: {spec.image}", "  container_name: raylm", ""]
    lines += [
        "available_node_types:",
        *(line for pool in spec.pools for line in _node_type(pool, pool.count - (pool is spec.pools[0]))),
        "",
    ]
    lines += [f"head_node_type: {spec.pools[0].name}", ""]
    lines += [
        "file_mounts:",
        "  ~/raylm: .",
        "  ~/.ray/auth_token: ~/.ray/auth_token     # Ray's token, mode 0600: `ray get-auth-token --generate` makes one",
        "rsync_exclude: [.git, .venv, runs, .env]",
        "",
        "setup_commands:",
        "  - cd ~/raylm && make install",
        "",
        "head_start_ray_commands:",
        "  - >-",
        # jobs that are submitted find their `python` by the path of Ray's own processes
        f"    cd ~/raylm && {_PATH} RAY_AUTH_MODE=token .venv/bin/ray start --head --port=6379",
        "    --autoscaling-config=~/ray_bootstrap_config.yaml --dashboard-host=127.0.0.1 --dashboard-port=8265",
        "    --disable-usage-stats",
        "worker_start_ray_commands:",
        "  - >-",
        f"    cd ~/raylm && {_PATH} RAY_AUTH_MODE=token .venv/bin/ray start --address=$RAY_HEAD_IP:6379",
        "    --disable-usage-stats",
        "",
    ]
    return "\n".join(lines)


def _node_type(pool: Pool, others: int) -> list[str]:
    name, there = instance(pool)
    # what the machine has: Ray would count no more of it than is said here
    gpus = f", GPU: {there}" if there else ""
    said = f"    # AWS has no smaller machine with {pool.device}: {pool.gpus} of its {there} are used"
    more = [said] if there > pool.gpus else []
    disk = f"{{DeviceName: /dev/sda1, Ebs: {{VolumeSize: {pool.disk_gb}, VolumeType: gp3}}}}"
    spot = ["      InstanceMarketOptions: {MarketType: spot}"] if pool.spot else []
    return [
        f"  {pool.name}:",
        f"    # {pool.memory_gb} GB memory" + (f", {pool.device}" if pool.device else ""),
        *more,
        f"    resources: {{CPU: {pool.cpus}{gpus}}}",
        "    node_config:",
        f"      InstanceType: {name}",
        f"      BlockDeviceMappings: [{disk}]",
        *spot,
        # all of them from the start: raylm refuses at once what the cluster that stands can never hold
        f"    min_workers: {others}",
        f"    max_workers: {others}",
    ]


def instance(pool: Pool) -> tuple[str, int]:
    """AWS's smallest instance that is as large as a machine of the pool, and the GPUs it has
    (https://aws.amazon.com/ec2/instance-types/, 2026)."""
    if pool.gpus:
        sizes = GPU_INSTANCES.get(pool.device, ())
        fit = ((name, gpus) for gpus, cores, name in sizes if gpus >= pool.gpus and cores >= pool.cpus)
        return next(fit, ("INSTANCE_WITH_THESE_GPUS", pool.gpus))
    return next((f"m7i.{size}" for cores, size in CPU_INSTANCES if cores >= pool.cpus), "m7i.48xlarge"), 0


def larger(spec: Spec) -> list[str]:
    """What is rented beyond what the job asks for, in words."""
    found = [(pool, *instance(pool)) for pool in spec.pools]
    return [
        f"{pool.count} x {name}: {gpus} {pool.device} each, {pool.gpus} of them are used (AWS has no smaller one)"
        for pool, name, gpus in found
        if gpus > pool.gpus
    ]


def _header(spec: Spec) -> str:
    how = [f"ray up {spec.file}", f"ray dashboard {spec.file}", f"raylm submit {spec.path} --address http://127.0.0.1:8265"]
    return header(spec, "ray up", [*(f"# {line}" for line in larger(spec)), *how])
