"""The command `raylm tune-mixture`."""

from __future__ import annotations

import argparse
from typing import Any


def _tune_mixture(arguments: argparse.Namespace) -> int:
    from raylm.mixture import tune

    return tune.run(arguments)


def add_command(commands: Any, command: Any) -> argparse.ArgumentParser:
    """Add the parser; returns it, because it takes --set.

    Args:
        commands: where subparsers are added.
        command: makes one of (commands, name, function, help).
    """
    tuning = command(
        commands,
        "tune-mixture",
        _tune_mixture,
        "choose the shares of a train stage's sources by small proxies, keep them as a job",
    )
    tuning.add_argument("job", metavar="JOB", help="a job file; what the stage reads is made once for all proxies")
    tuning.add_argument("stage", metavar="STAGE", help="a train stage whose rows are a mixture")
    tuning.add_argument(
        "--proxies", metavar="N", type=int, default=24, help="mixtures that are tried, the natural one among them"
    )
    tuning.add_argument("--steps", metavar="N", type=int, default=300, help="length of a proxy, in the stage's batches")
    proxy = "a key of the stage for proxies alone: model.hidden_size=64; default: the stage's model, small: a million weights"
    tuning.add_argument("--proxy", metavar="KEY=VALUE", action="append", default=[], help=proxy)
    target = "rows whose held-out loss is to fall, by stage or URI, weighted where a number stands; default: every source alike"
    tuning.add_argument("--target", metavar="ROWS[=WEIGHT]", action="append", default=[], help=target)
    tuning.add_argument("--rows", metavar="N", type=int, default=128, help="held-out rows of each target")
    tuning.add_argument(
        "--max-epochs", metavar="X", type=float, default=4.0, help="most times that the whole run may see a source; default: 4"
    )
    tuning.add_argument(
        "--min-rank",
        metavar="R",
        type=float,
        default=0.7,
        help="rank correlation over left-out proxies below which none is chosen",
    )
    tuning.add_argument("--unseen", metavar="N", type=int, default=0, help="further mixtures that are trained and never fitted")
    tuning.add_argument("--processes", metavar="N", type=int, help="proxies at the same time; default: one for each core")
    tuning.add_argument("--seed", type=int, default=0, help="of the mixtures")
    tuning.add_argument("--anew", action="store_true", help="forget the proxies that lie there")
    return tuning
