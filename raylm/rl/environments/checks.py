"""Checks of an environment before a run: its methods, and the model's chat template in a trial conversation."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from raylm.core.config import CustomCard, resolve
from raylm.core.errors import ConfigError

METHODS = {"reset": ("prompt",), "step": ("turn",), "tools": (), "close": ()}


def check_environment(card: Any) -> None:
    """Raises ConfigError when somebody else's environment cannot be made, or has not the methods that are called."""
    if not isinstance(card, CustomCard):
        return
    made = resolve(card)
    for name, arguments in METHODS.items():
        method, called = getattr(made, name, None), f"{name}({', '.join(arguments)})"
        if not callable(method):
            raise ConfigError(
                f"the custom card {card.path!r} has no method {called}",
                where="environment",
                next="derive it from raylm.rl.environments.environment.Environment",
            )
        try:
            inspect.signature(method).bind(*arguments)
        except TypeError as cause:
            raise ConfigError(
                f"the custom card {card.path!r} has {name}{inspect.signature(method)}, raylm calls {called}: {cause}",
                where="environment",
            ) from cause


def check_template(card: Any, model: str, tool_parser: str) -> None:
    """Try a conversation with the model in the local folder `model`. Tools that have to be asked for (a server's) are tried when
    the run begins.

    Raises:
        ConfigError: its chat template refuses the environment, rewrites turns, or writes calls that are not read.
    """
    from raylm.model.checkpoint import end_tokens
    from raylm.model.tokenizer import read_tokenizer
    from raylm.rl.chat_turns import ChatTurns

    made: Any = resolve(card)
    if inspect.iscoroutinefunction(made.tools) or not (Path(model) / "tokenizer_config.json").is_file():
        return  # also a folder with no more than the config that a plan needs
    try:
        tokenizer = read_tokenizer(model)
        turns = ChatTurns(tokenizer, end_tokens(Path(model), tokenizer), made.tools(), tool_parser)
    except ImportError:
        return  # a laptop that only plans
    turns.check(tuple(made.speaks))
