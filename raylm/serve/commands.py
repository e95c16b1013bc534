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
    _add_adapters(commands, command)
    _add_scaling(commands, command)
    _add_updates(commands, command)
    _add_demo(commands, command)
    _add_tuning(commands, command)


def _tune(arguments: argparse.Namespace) -> int:
    from raylm.serve.tune import run

    return run.run(arguments)


def _add_tuning(commands: Any, command: Any) -> None:
    tuning = command(commands, "tune-serve", _tune, "try engine settings on your own prompts on this machine; leaves the best")
    tuning.add_argument("model", metavar="MODEL", help="folder of a checkpoint: runs/quickstart/sft")
    asked = tuning.add_mutually_exclusive_group(required=True)
    asked.add_argument("--prompts", metavar="FILE", help="a prompt a line: text, or JSON with prompt or messages")
    asked.add_argument("--from-audit", metavar="ENDPOINT", help=f"what its clients asked, where its audit keeps text: {ENDPOINT}")
    tuning.add_argument("--minutes", metavar="N", type=float, default=10.0, help="for all candidates; default: 10")
    tuning.add_argument("--draft", metavar="MODEL", help="folder of a draft model, distilled from MODEL")
    tuning.add_argument("--also", metavar="NAME=MODEL", action="append", default=[], help="another checkpoint, quantized say")
    tuning.add_argument("--tokens", metavar="N", type=int, default=64, help="most tokens of an answer; default: 64")
    tuning.add_argument("--concurrency", metavar="N", type=int, default=8, help="requests at once; default: 8")
    tuning.add_argument("--repeats", metavar="N", type=int, default=3, help="passes over all prompts; default: 3")
    tuning.add_argument(
        "--gpus", metavar="N", type=int, default=0, help="GPUs of this machine that an engine may take; default: 0"
    )
    tuning.add_argument("--dtype", choices=["auto", "float32", "bfloat16", "float16"], default="auto", help="as in a serve stage")
    tuning.add_argument("--max-len", metavar="N", type=int, help="as in a serve stage; default: what the prompts need")
    tuning.add_argument("--compile", action="store_true", help="on a CPU try torch.compile too, which takes minutes to start")
    tuning.add_argument("--out", metavar="FOLDER", default="tune-serve", help="where results and report lie; default: tune-serve")
    tuning.add_argument("--anew", action="store_true", help="measure again what is there of an earlier run")


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


def _update(arguments: argparse.Namespace) -> int:
    from raylm.serve.updates import update

    return update.update(arguments)


def _rollback(arguments: argparse.Namespace) -> int:
    from raylm.serve.updates import update

    return update.rollback(arguments)


def _rollout(arguments: argparse.Namespace) -> int:
    from raylm.serve.updates import update

    return update.rollout(arguments)


def _add_updates(commands: Any, command: Any) -> None:
    updating = command(commands, "update", _update, "let an endpoint answer with another checkpoint while it serves")
    back = command(commands, "rollback", _rollback, "give up an update that is under way, or bring back an earlier version")
    shown = command(commands, "rollout", _rollout, "the update that is under way, and every version so far")
    for each in (updating, back, shown):
        each.add_argument("endpoint", metavar="ENDPOINT", help=ENDPOINT)
    updating.add_argument("model", metavar="MODEL", help="a finished stage's folder, or one of Hugging Face's layout")
    back.add_argument("fingerprint", metavar="FINGERPRINT", nargs="?", help="of the version, or its beginning; default: the last")
    which = updating.add_mutually_exclusive_group()
    which.add_argument("--in-place", action="store_true", help="within the engines that stand; requests under way go on")
    which.add_argument("--rolling", action="store_true", help="new engines, one replica after the other; default: as it must be")
    updating.add_argument("--canary", metavar="SHARE", type=_part, help="part of the conversations that get it first: 0.1")
    updating.add_argument("--canary-keys", metavar="NAMES", help="names of keys that get it first: alice,bob")
    updating.add_argument("--for", dest="canary_for", metavar="TIME", default="10m", help="how long; default: 10m")
    updating.add_argument("--shadow", metavar="SHARE", type=_part, help="part of the requests of which it gets a copy meanwhile")
    updating.add_argument("--report", metavar="URI", help="the evaluation report whose gate it passed; default: sought beside it")
    limits = (("--max-errors", 0.02, "answers that may fail beyond the old version's"),)
    limits += (("--max-disagree", 1.0, "greedy copies that it may answer otherwise than the old version"),)
    for name, usual, what in limits:
        updating.add_argument(name, metavar="SHARE", type=_part, default=usual, help=f"part of {what}; default: {usual:g}")
    for each in (updating, back):
        each.add_argument("--name", metavar="NAME", help="of several models behind the endpoint, this one")
        each.add_argument("--why", metavar="WORDS", help="kept in the history")
        each.add_argument("--detach", action="store_true", help="do not wait for the end")


def _part(text: str) -> float:
    """A share of 0 to 1."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is no share: 0 to 1")
    return value


def _demo(arguments: argparse.Namespace) -> int:
    from raylm.serve.demo import command

    return command.run(arguments)


def _add_demo(commands: Any, command: Any) -> None:
    from raylm.serve.demo.command import add_options

    add_options(command(commands, "demo", _demo, "a page to chat on: sampling, token probabilities, two models side by side"))


def _adapters(arguments: argparse.Namespace) -> int:
    from raylm.serve import adapter_commands

    return adapter_commands.run(arguments)


def _add_adapters(commands: Any, command: Any) -> None:
    adapters = command(commands, "adapters", _adapters, "LoRA adapters of an endpoint that serves: list, load, unload")
    actions = adapters.add_subparsers(dest="action", required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="names, where they come from, and which replicas have them")
    loading = actions.add_parser("load", help="load one on every replica; clients then ask for it as a model")
    unloading = actions.add_parser("unload", help="let no request ask for one any more")
    for action in (listing, loading, unloading):
        action.add_argument("endpoint", metavar="ENDPOINT", help=ENDPOINT)
        action.add_argument("--model", metavar="MODEL", default="", help="of several models behind the endpoint, this one")
    for action in (loading, unloading):
        action.add_argument("name", metavar="NAME", help="what clients ask for")
    loading.add_argument("path", metavar="PATH", help="a folder or URI of peft's layout, a train stage's folder, or a hub name")
