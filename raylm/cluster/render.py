"""`raylm cluster render` and `raylm plan --cluster`: the machines that a job needs, as a table and as a spec."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from raylm.cluster.machines import Pool, one_pool, pools
from raylm.cluster.needs import StageNeed, needs
from raylm.cluster.specs import kuberay, ray_up, sky, slurm
from raylm.cluster.specs.spec import Spec, in_words
from raylm.cluster.submit import check_root, run_words
from raylm.core.config import ENDPOINT, references
from raylm.core.errors import ConfigError, PlanError, StorageError
from raylm.job import Job, Step

KINDS: dict[str, tuple[Callable[[Spec], str], str]] = {
    "sky": (sky.render, "sky.yaml"),
    "kuberay": (kuberay.render, "kuberay.yaml"),
    "slurm": (slurm.render, "slurm.sh"),
    "ray-up": (ray_up.render, "ray-up.yaml"),
}
"""How a spec is written, and what its file ends with."""
FOLDER = "cluster/rendered"


def spec_of(job: Job, steps: list[Step], path: str, words: tuple[str, ...], image: str = "") -> Spec:
    """The job and its machines.

    Raises:
        PlanError: nothing is left to run, or GPUs of several kinds are asked for.
        ConfigError: the root would vanish with the machine.
    """
    found = needs(job, steps)
    if not found:
        raise PlanError("every stage is finished: no machine is needed", where=path)
    made, equal = pools(found), one_pool(found)
    if sum(pool.count for pool in made) > 1:
        check_root(job.root)
    serving: list[Any] = [step.config for step in steps if step.makes == ENDPOINT]
    ports = tuple(dict.fromkeys(cfg.port for cfg in serving))
    for cfg in serving:
        if cfg.host == "127.0.0.1" and sum(pool.count for pool in made) >= 1 and not cfg.insecure:
            words = (*words, "--set", f"stages.{_name_of(job, cfg)}.host=0.0.0.0")
    toml = Path(path).read_text() if Path(path).is_file() else ""
    return Spec(job.name, path, ("raylm", "run", path, *words), tuple(made), equal, ports, image, toml=toml)


def run(arguments: argparse.Namespace) -> int:
    """`raylm cluster render JOB --to KIND`."""
    from raylm import job

    loaded = job.load(arguments.job, arguments.set)
    steps = _steps(loaded, arguments.only)
    words = run_words(arguments.only, arguments.set, [])
    write, ending = KINDS[arguments.to]
    out = arguments.out if arguments.out not in (None, "-") else f"{FOLDER}/{loaded.name}.{ending}"
    spec = spec_of(loaded, steps, _relative(arguments.job), words, arguments.image)._replace(file=out)
    if arguments.to == "sky" and spec.equal.gpus and not spec.equal.device:
        raise ConfigError("SkyPilot must know which GPU", where=spec.path, next='workers = {device = "h100"} in the stage')
    if arguments.to in ("sky", "kuberay") and not spec.ports:
        # a single machine goes, too, when its job ends or it is taken away
        check_root(loaded.root)
    text = write(spec)
    if arguments.out == "-":
        print(text, end="")
        return 0
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    Path(out).write_text(text)
    print(f"{out}: {spec.told}")
    for line in ray_up.larger(spec) if arguments.to == "ray-up" else ():
        print(f"  note: {line}", file=sys.stderr)
    print(f"next: {_launch(text)}")
    return 0


def _steps(loaded: Job, only: str | None) -> list[Step]:
    from raylm import job

    try:
        return job.plan(loaded, None, only)
    except StorageError as cause:
        print(f"  {loaded.root} cannot be read from here ({cause.what}): every stage is counted", file=sys.stderr)
        steps = [Step(name, cfg, cfg.makes(), list(references(cfg)), "new", []) for name, cfg in loaded.stages.items()]
        return job.needed(steps, only)


def tables(job: Job, steps: list[Step]) -> list[Any]:
    """Tables of `raylm plan --cluster`: what each stage needs, and the machines that hold all of them."""
    from rich import box
    from rich.table import Table

    found = needs(job, steps)
    by_stage = Table(title="what the stages need at once", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("stage", "verb", "roles", "CPUs", "GPUs", "machines", "spot"):
        by_stage.add_column(column, overflow="fold")
    for need in found:
        gpus = f"{need.gpus:g} {need.device}".strip() if need.gpus else "-"
        nodes = str(need.nodes) if need.nodes else "any"
        by_stage.add_row(need.stage, need.verb, _roles(need), f"{need.cpus:g}", gpus, nodes, "may be" if need.spot else "no")
    machines = Table(title="machines", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("pool", "machines", "disk", "spot", "price"):
        machines.add_column(column, overflow="fold")
    for pool in pools(found) if found else []:
        machines.add_row(pool.name, in_words(pool), f"{pool.disk_gb} GB", "may be" if pool.spot else "no", _price(pool))
    return [by_stage, machines]


def _roles(need: StageNeed) -> str:
    return ", ".join(f"{role.count} {name}" for name, role in need.roles.items())


def _price(pool: Pool) -> str:
    return f"${pool.price_h:,.2f} an hour" if pool.price_h is not None else "not in the catalogue"


def _relative(path: str) -> str:
    found = os.path.relpath(Path(path).resolve())
    if found.startswith(".."):
        raise ConfigError("the job file must lie in the folder that is sent", where=path, next="cd to the folder that has it")
    return found


def _name_of(job: Job, cfg: Any) -> str:
    return next(name for name, each in job.stages.items() if each is cfg)


def _launch(text: str) -> str:
    """The command that launches a spec, from the comment above it."""
    lines = [line.removeprefix("#   ") for line in text.splitlines() if line.startswith("#   ")]
    return next(line for line in lines if not line.startswith(("export", "#")))
