"""Machines that a cluster's autoscaler may bring, as the user says: Ray tells a job nothing of them before they are there."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from typing import NamedTuple

from raylm.core.errors import ConfigError

_GROUP = re.compile(r"(\d+) x ((?:\d+(?:\.\d+)? (?:CPU|GPU),? ?)+)")
_PART = re.compile(r"(\d+(?:\.\d+)?) (CPU|GPU)")


class NodeGroup(NamedTuple):
    """Equal machines that may come."""

    most: int
    has: dict[str, float]
    """Of one machine."""


_expected: list[NodeGroup] = []


def node_group(text: str) -> NodeGroup:
    """`4 x 32 CPU, 8 GPU`. Raises ConfigError for what cannot be read."""
    found = _GROUP.fullmatch(text.strip())
    if found is None:
        raise ConfigError(f"{text!r} says no machines", where="--may-come", next="--may-come '4 x 32 CPU, 8 GPU'")
    return NodeGroup(int(found[1]), {kind: float(number) for number, kind in _PART.findall(found[2])})


def add_option(parser: argparse.ArgumentParser) -> None:
    """The option by which a user says what may come."""
    told = "'4 x 32 CPU, 8 GPU': machines that the cluster's autoscaler may bring; a stage that needs them waits for them"
    parser.add_argument("--may-come", metavar="MACHINES", action="append", default=[], help=told)


def expect(texts: Sequence[str]) -> None:
    """From now on these machines may come to the cluster of this process."""
    _expected[:] = [node_group(text) for text in texts]


def node_groups() -> list[NodeGroup]:
    """What may come."""
    return list(_expected)
