"""Checks of rewards before anything starts: what cannot be made, called, reached or compared."""

from __future__ import annotations

import inspect
from typing import Any

from raylm.core.config import CustomCard, resolve
from raylm.core.errors import ConfigError
from raylm.rl.rewards.calling import METHODS


def check_reward(card: Any, where: str) -> None:
    """Raises ConfigError where a reward cannot be made, is not called as raylm calls it, or lacks what it says it needs of
    this machine (`check()` of the card)."""
    made = resolve(card)
    if hasattr(made, "check"):
        made.check(where)
    if not isinstance(card, CustomCard) or hasattr(made, "role"):
        return
    found = {name: method for name in METHODS if callable(method := getattr(made, name, None))}
    if not found:
        ways = ", ".join(f"{name}({', '.join(arguments)})" for name, arguments in reversed(METHODS.items()))
        raise ConfigError(f"the custom card {card.path!r} has no method score", where=where, next=f"give it one of {ways}")
    name, method = next(iter(found.items()))
    called = f"{name}({', '.join(METHODS[name])})"
    if inspect.isasyncgenfunction(method):
        raise ConfigError(f"the custom card {card.path!r} has a {name} that yields; raylm calls {called} once", where=where)
    check_arguments(method, called, f"the custom card {card.path!r}", where)


def check_arguments(method: Any, called: str, whose: str, where: str) -> None:
    """Raises ConfigError where `method` does not take the arguments of `called`. Example: "score(prompt, completion)"."""
    name, _, arguments = called.rstrip(")").partition("(")
    try:
        inspect.signature(method).bind(*arguments.split(", "))
    except TypeError as cause:
        raise ConfigError(f"{whose} has {name}{inspect.signature(method)}, raylm calls {called}: {cause}", where=where) from cause
    except ValueError:
        return  # a callable that tells no signature
