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
