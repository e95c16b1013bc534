"""Commands that act on an endpoint while it serves. Each adds its parser here; what it does lies beside what it acts on."""

from __future__ import annotations

import argparse
from typing import Any

ENDPOINT = "folder of a serve stage: runs/quickstart/endpoint"


def add_commands(commands: Any, command: Any) -> None:
    """Add the parsers.

    Args:
        commands: where subparsers are added.
        command: makes one of (commands, name, function, help).
    """
    _add_keys(commands, command)
    _add_scaling(commands, command)


def _scaling(arguments: argparse.Namespace) -> int:
    from raylm.serve.scaling import show

    return show.run(arguments)


def _add_scaling(commands: Any, command: Any) -> None:
    scaling = command(
        commands, "scaling", _scaling, "why an endpoint has as many replicas as it has; what others would have done"
    )
    scaling.add_argument("source", metavar="ENDPOINT", help=f"{ENDPOINT}; or a file of requests to replay")
    scaling.add_argument("--last", metavar="N", type=int, default=50, help="decisions that are shown; default: 50")
    scaling.add_argument("--model", metavar="MODEL", default="", help="of several models behind the endpoint, this one")
    scaling.add_argument("--simulate", action="store_true", help="replay its requests (audit log) against modelled replicas")
    scaling.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="replicas.max=8, policies=[{kind='ongoing',target=4}], ...",
    )
    scaling.add_argument("--plot", metavar="FILE", help="write replicas, queue and first tokens over time (SVG)")


def _keys(arguments: argparse.Namespace) -> int:
    from raylm.serve import keys

    return keys.run(arguments)


def _add_keys(commands: Any, command: Any) -> None:
    keys = command(commands, "keys", _keys, "API keys of an endpoint: add, list and revoke them while it serves")
    actions = keys.add_subparsers(dest="action", required=True, metavar="ACTION")
    adding = actions.add_parser("add", help="make a key; it is printed once and kept as a digest")
    listing = actions.add_parser("list", help="names, models and state of all keys")
    revoking = actions.add_parser("revoke", help="let a key in no more")
    for action in (adding, listing, revoking):
        action.add_argument("endpoint", metavar="ENDPOINT", help=ENDPOINT)
    for action in (adding, revoking):
        action.add_argument("name", metavar="NAME", help="whose it is, or what for: limits and the audit log go by it")
    adding.add_argument("--model", metavar="MODEL", action="append", default=[], help="for this model alone; may be said again")
    adding.add_argument("--days", metavar="N", type=float, help="days until it expires; default: never")
