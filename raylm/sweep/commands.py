"""The command `raylm sweep`."""

from __future__ import annotations

import argparse
from typing import Any


def _sweep(arguments: argparse.Namespace) -> int:
    from raylm.sweep import run

    return run.run(arguments)


def add_command(commands: Any, command: Any) -> argparse.ArgumentParser:
    """Add the parser; returns it, because it takes --set.

    Args:
        commands: where subparsers are added.
        command: makes one of (commands, name, function, help).
    """
    sweep = command(commands, "sweep", _sweep, "try values of a train stage's keys, stop the worse ones early, keep the best")
    sweep.add_argument("job", metavar="JOB", help="a job file; what the stage reads is made once for all trials")
    sweep.add_argument("stage", metavar="STAGE", help="a train stage")
    over = "values of one of the stage's keys: adapter.rank=4,16,64, or a range to draw from: optimizer.lr=1e-4..1e-2"
    sweep.add_argument("--over", metavar="KEY=VALUES", action="append", default=[], help=over)
    sweep.add_argument(
        "--trials", metavar="N", type=int, help="number of draws; default: the whole grid, or 8 where there is a range"
    )
    sweep.add_argument("--metric", default="held_out_loss", help="what is compared; default: held_out_loss")
    sweep.add_argument("--mode", choices=["min", "max"], default="min", help="whether less or more is better")
    sweep.add_argument(
        "--grace", metavar="STEPS", type=int, help="steps that every trial gets; default: until it is first measured"
    )
    sweep.add_argument("--reduction", metavar="N", type=int, default=3, help="one in N trials goes on behind each rung (ASHA)")
    sweep.add_argument("--all", action="store_true", help="stop no trial early")
    sweep.add_argument("--seed", type=int, default=0, help="of the draws")
    sweep.add_argument("--anew", action="store_true", help="forget the sweep that lies there")
    return sweep
