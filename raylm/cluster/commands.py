"""Commands that act on a cluster: render its spec, start a machine of it, submit jobs to it, list and stop them."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from raylm.core import coming

ADDRESS = "address of the cluster's dashboard, http://HEAD:8265; default: RAY_API_SERVER_ADDRESS"


def add_commands(commands: Any, command: Any) -> list[argparse.ArgumentParser]:
    """Add the parsers; returns those that take --set and those that take --rebuild too.

    Args:
        commands: where subparsers are added.
        command: makes one of (commands, name, function, help).
    """
    cluster = command(commands, "cluster", _cluster, "write the spec of a cluster for a job, or start a machine of one")
    actions = cluster.add_subparsers(dest="action", required=True, metavar="ACTION")
    render = actions.add_parser("render", help="write a spec that a person can read, change and launch")
    render.add_argument("job", metavar="JOB", help="a job file")
    render.add_argument("--to", required=True, choices=["sky", "kuberay", "slurm", "ray-up"], help="who provisions")
    render.add_argument("--only", metavar="STAGE", help="this stage and what it needs alone")
    render.add_argument("--image", default="", help="container image that has raylm (kuberay; sky where it is given)")
    render.add_argument("--out", metavar="FILE", help="default: cluster/rendered/JOB.KIND.yaml; - prints it")
    start = actions.add_parser("start", help="start Ray on this machine; on the head run a command on the cluster")
    start.add_argument("--stay", action="store_true", help="keep the cluster when COMMAND has succeeded: for an endpoint")
    start.add_argument("words", metavar="-- COMMAND", nargs=argparse.REMAINDER, help="what the head runs: -- raylm run JOB")
    submit = command(commands, "submit", _submit, "run a job on a live cluster and follow it; the same again continues it")
    submit.add_argument("job", metavar="JOB", help="a job file in the folder that is sent")
    submit.add_argument("--only", metavar="STAGE", help="run only this stage and what it needs")
    submit.add_argument("--folder", default=".", help="folder that is sent; default: this one")
    submit.add_argument("--in-place", action="store_true", help="send nothing: the folder is at this path on every machine too")
    submit.add_argument("--runtime-env", metavar="FILE", help="JSON with more of Ray's runtime environment")
    submit.add_argument("--python", default="python", help="interpreter on the cluster that has raylm; default: python")
    submit.add_argument("--detach", action="store_true", help="do not follow it")
    submit.add_argument("--on-interrupt", choices=["leave", "stop"], default="leave", help="what Ctrl-C does to the job")
    coming.add_option(submit)
    jobs = command(commands, "jobs", _jobs, "jobs of a cluster: names, states, times")
    stop = command(commands, "stop", _stop, "stop a job of a cluster; what it finished is kept")
    stop.add_argument("name", metavar="NAME", help="as `raylm jobs` shows it")
    for taker in (submit, jobs, stop):
        taker.add_argument("--address", default=os.environ.get("RAY_API_SERVER_ADDRESS", ""), help=ADDRESS)
    return [render, submit]


def _cluster(arguments: argparse.Namespace) -> int:
    if arguments.action == "start":
        from raylm.cluster import start

        words = arguments.words[1:] if arguments.words[:1] == ["--"] else arguments.words
        return start.main(words, arguments.stay)
    from raylm.cluster import render

    return render.run(arguments)


def _submit(arguments: argparse.Namespace) -> int:
    from raylm import job
    from raylm.cluster.jobs import Cluster, token_of
    from raylm.cluster.submit import Asked, check_root, read_environment, run_words, submit

    coming.expect(arguments.may_come)
    loaded = job.load(arguments.job, arguments.set)
    check_root(loaded.root)
    steps = job.plan(loaded, arguments.rebuild, arguments.only)
    # other machines know a folder by the name that all give it, not by what a link here leads to
    folder = Path(arguments.folder).absolute() if arguments.in_place else Path(arguments.folder).resolve()
    path = os.path.relpath(Path(arguments.job).resolve(), folder.resolve())
    words = run_words(arguments.only, arguments.set, arguments.rebuild, arguments.may_come)
    environment = read_environment(arguments.runtime_env)
    asked = Asked(loaded, path, words, folder, environment, arguments.python, arguments.in_place)
    cluster = Cluster(_address(arguments), token_of(os.environ))
    return submit(asked, steps, cluster, detach=arguments.detach, interrupt=arguments.on_interrupt)


def _jobs(arguments: argparse.Namespace) -> int:
    from datetime import UTC, datetime

    from rich.console import Console
    from rich.table import Table

    from raylm.cluster.jobs import Cluster, token_of

    cluster = Cluster(_address(arguments), token_of(os.environ))
    table = Table("name", "job", "state", "began (UTC)", "seconds", "said last", box=None)
    now = datetime.now(UTC).timestamp() * 1000
    for each in (found := cluster.list()):
        began, ended = each.start_time, each.end_time or now
        at = datetime.fromtimestamp(began / 1000, UTC).isoformat(" ", "seconds")[:19] if began else "-"
        seconds = f"{(ended - began) / 1000:.0f}" if began else "-"
        told = (each.message or "").splitlines()
        table.add_row(
            each.submission_id,
            (each.metadata or {}).get("raylm_job", "-"),
            str(each.status),
            at,
            seconds,
            told[0] if told else "",
        )
    Console().print(table) if found else print("no jobs")
    print(f"next: raylm stop NAME --address {cluster.address}" if found else "next: raylm submit JOB --address ...")
    return 0


def _stop(arguments: argparse.Namespace) -> int:
    from raylm.cluster.jobs import Cluster, token_of

    cluster = Cluster(_address(arguments), token_of(os.environ))
    under_way = cluster.stop(arguments.name)
    print(f"{arguments.name} is told to stop" if under_way else f"{arguments.name} had ended before", file=sys.stderr)
    print(f"next: raylm jobs --address {cluster.address}")
    return 0


def examine(arguments: argparse.Namespace) -> int:
    """`raylm doctor --address`."""
    from raylm.cluster import examine
    from raylm.cluster.jobs import Cluster, token_of

    return examine.examine(Cluster(arguments.address, token_of(os.environ)), arguments.python, arguments.root)


def _address(arguments: argparse.Namespace) -> str:
    from raylm.core.errors import ConfigError

    if not arguments.address:
        raise ConfigError("which cluster?", next="--address http://HEAD:8265")
    return arguments.address
