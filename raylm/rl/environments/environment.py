"""What an environment is: a card whose copy talks with the model during one conversation."""

from __future__ import annotations

import json
import math
from typing import Any, ClassVar, NamedTuple

from raylm.core.config import Config

Message = dict[str, Any]
"""One turn in OpenAI's form: `role`, `content`, and of the assistant `tool_calls`, of a tool `tool_call_id` and `name`."""


class Call(NamedTuple):
    """A call of a tool. Example: Call("c00010000", "calculator", {"expression": "6 * 7"})."""

    id: str
    name: str
    arguments: dict[str, Any]


class Turn(NamedTuple):
    """What the model said in one turn."""

    text: str
    """All of it, less the token that ends it."""
    content: str
    """What stands beside the calls."""
    calls: tuple[Call, ...] = ()
    errors: tuple[str, ...] = ()
    """What is wrong with calls that cannot be read."""


class Step(NamedTuple):
    """What the environment answers to a turn."""

    messages: list[Message] = []
    """Said to the model before its next turn; none ends the conversation."""
    reward: float | None = None
    """Added to the rewards of earlier steps; None where this one gives none."""
    done: bool = False
    """The conversation is over: nothing more is said."""
    reason: str = ""
    """Why it is over, or what the reward is for."""
    metrics: dict[str, float] = {}
    """Numbers that are summed over the conversation."""


class Environment(Config):
    """Base of all environments, somebody else's too.

    Every conversation has a copy of the card to itself, in a process of its own: private attributes are its state. Each method
    may be async. What raises, hangs (`turn_timeout_s`) or ends its process costs that conversation its score.
    """

    speaks: ClassVar[tuple[str, ...]] = ("user",)
    """Roles of what it says; the model's chat template must have them."""
    rewarded: ClassVar[bool] = False
    """Whether its steps give rewards, so that a job needs no others."""
    needs: ClassVar[tuple[str, ...]] = ()
    """("ground_truth",): prompts must have one."""

    def tools(self) -> list[dict[str, Any]] | Any:
        """The tools that the prompt offers, in OpenAI's form. Asked once, before the first conversation."""
        return []

    def reset(self, prompt: Any) -> list[Message] | Any:
        """A conversation begins, on this `Prompt` (`raylm.rl.types`); what is said to the model behind the prompt's messages."""
        return []

    def step(self, turn: Turn) -> Step | Any:
        """The environment's answer to one turn."""
        raise TypeError(f"{type(self).__name__} has no step(turn)")

    def close(self) -> Any:
        """The conversation is over, or was given up."""
        return None


def messages_of(value: Any) -> list[Message]:
    """What an environment says, as plain messages; a string alone is said by the user. Raises TypeError on anything else."""
    if value is None:
        return []
    given = [{"role": "user", "content": value}] if isinstance(value, str) else value
    if not isinstance(given, (list, tuple)):
        raise TypeError(f"an environment says a list of messages, not a {type(value).__name__}")
    for message in given:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise TypeError('a message is {"role": ..., "content": "..."}')
        if not isinstance(message.get("content"), str):
            raise TypeError(f"the content of a message is a string, not a {type(message.get('content')).__name__}")
        if message["role"] == "assistant":
            raise TypeError("an environment cannot speak as the assistant: what it says is not learned")
    return json.loads(json.dumps(list(given)))


def step_of(value: Any) -> Step:
    """An answer to a turn whose parts are what they must be. Raises TypeError or ValueError where they are not."""
    if not isinstance(value, Step):
        raise TypeError(f"step(turn) returns a Step, not a {type(value).__name__}")
    reward = None if value.reward is None else float(value.reward)
    metrics = {str(name): float(number) for name, number in value.metrics.items()}
    if not all(math.isfinite(number) for number in (*metrics.values(), reward or 0.0)):
        raise ValueError(f"a reward or metric of the environment is no finite number: {value.reward}, {metrics}")
    return Step(messages_of(value.messages), reward, bool(value.done), str(value.reason), metrics)
