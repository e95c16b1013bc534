"""The `function` reward: a function with the signature of TRL's rewards."""

from __future__ import annotations

import contextlib
import inspect
import json
from collections.abc import Callable
from typing import Any, ClassVar, Literal

from pydantic import Field

from raylm.core.errors import ConfigError
from raylm.data.records import GROUND_TRUTHS
from raylm.rl.rewards.reward import Reward
from raylm.rl.types import Prompt, Trajectory

GIVEN = ("prompts", "completions", "completion_ids")
NOT_GIVEN = ("trainer_state", "log_extra", "log_metric", "environments")
"""What TRL's trainer hands over of itself."""


class Function(Reward):
    """A function `(prompts, completions, **columns) -> list of numbers`, as TRL's GRPOTrainer takes them: its own ones
    (`trl.rewards:think_format_reward`) and yours. It is called with all completions of one prompt; where that fails, with each
    alone, so that only what fails has no score. An `async def` is awaited.

    Handed over are `prompts` and `completions`, `completion_ids`, and a list of each further column of the prompts' rows
    (`solution`, `answer` and `ground_truth` have the ground truth where the row kept no such column).
    """

    splits: ClassVar[bool] = True

    kind: Literal["function"] = "function"
    path: str
    """Import path, `package.module:function`."""
    conversational: bool = True
    """Prompts and completions are lists of messages, as TRL has them for rows with messages; false: the prompt's last message
    and the completion as text."""
    options: dict[str, Any] = Field(default={})
    """Further arguments by name, the same for all."""

    def function(self) -> Callable[..., Any]:
        """The function itself. Raises ConfigError where it cannot be imported."""
        import importlib

        module, _, name = self.path.partition(":")
        try:
            found = importlib.import_module(module)
            for part in name.split("."):
                found = getattr(found, part)
        # somebody else's module: a mistake in it shows as any exception
        except (Exception, SystemExit) as cause:
            raise ConfigError(f"cannot import {self.path!r}: {type(cause).__name__}: {cause}", next="check path") from cause
        if not callable(found) or inspect.isclass(found):
            raise ConfigError(f"{self.path!r} is no function", next="a class with a method `score` is a custom reward")
        return found

    def check(self, where: str) -> None:
        """Raises ConfigError where the function cannot be imported, or needs what is not handed over."""
        try:
            wanted = inspect.signature(self.function()).parameters
        except ValueError:
            return  # a callable that tells no signature
        for name, one in wanted.items():
            if one.kind is one.POSITIONAL_ONLY:
                raise ConfigError(f"{self.path!r} takes {name} by place; columns come by name", where=where)
            if name in NOT_GIVEN and one.default is one.empty:
                raise ConfigError(f"{self.path!r} needs {name}, which only TRL's trainer has", where=where)
        if not {"prompts", "completions", "completion_ids"} & wanted.keys() and not _takes_all(wanted):
            raise ConfigError(f"{self.path!r} takes no completions", where=where, next="f(prompts, completions, **columns)")

    @property
    def waits(self) -> bool:
        """Whether the function is async, as far as it can be imported here."""
        with contextlib.suppress(ConfigError):
            return inspect.iscoroutinefunction(self.function())
        return False

    def runner(self) -> Any:
        """What is called, in the rewards' process."""
        return _Later(self, self.function()) if self.waits else _Now(self, self.function())

    def arguments(self, prompt: Prompt, drawn: list[Trajectory], function: Callable[..., Any]) -> dict[str, Any]:
        """What `function` is called with: what it takes by name, all where it takes all."""
        messages: list[dict[str, Any]] = json.loads(prompt.messages)
        if self.conversational:
            prompts: list[Any] = [messages] * len(drawn)
            completions: list[Any] = [_turns(each) for each in drawn]
        else:
            prompts, completions = [str(messages[-1]["content"]) if messages else ""] * len(drawn), [each.text for each in drawn]
        columns = {**dict.fromkeys(GROUND_TRUTHS, prompt.ground_truth), **(prompt.columns or {}), **self.options}
        every = {name: value if name in self.options else [value] * len(drawn) for name, value in columns.items()}
        every |= {"prompts": prompts, "completions": completions, "completion_ids": [each.tokens for each in drawn]}
        try:
            wanted = inspect.signature(function).parameters
        except ValueError:
            return every
        return every if _takes_all(wanted) else {name: value for name, value in every.items() if name in wanted}


class _Now:
    splits = True

    def __init__(self, card: Function, function: Callable[..., Any]) -> None:
        self._card, self._function = card, function

    def score_all(self, prompt: Prompt, trajectories: list[Trajectory]) -> Any:
        return self._function(**self._card.arguments(prompt, trajectories, self._function))


class _Later(_Now):
    async def score_all(self, prompt: Prompt, trajectories: list[Trajectory]) -> Any:
        return await self._function(**self._card.arguments(prompt, trajectories, self._function))


def _turns(drawn: Trajectory) -> list[dict[str, Any]]:
    return json.loads(drawn.messages) if drawn.messages else [{"role": "assistant", "content": drawn.text}]


def _takes_all(wanted: Any) -> bool:
    return any(one.kind is one.VAR_KEYWORD for one in wanted.values())
