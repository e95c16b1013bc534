"""Base of environments that are tools: the model calls, the tools answer, and a turn without a call ends the conversation."""

from __future__ import annotations

import inspect
from typing import Any, ClassVar

from pydantic import Field, PrivateAttr

from raylm.rl.environments.environment import Call, Environment, Message, Step, Turn

CALLS, ERRORS = "tool_calls", "tool_errors"


class ToolError(Exception):
    """What a tool says to the model where it cannot do what was asked."""


class ToolEnvironment(Environment):
    """Tools in place of a partner. A call that cannot be read, or that a tool refuses, is answered with an error message, and
    counted: `tool_calls`, of these `tool_errors`; and `malformed_calls`, which are not among them."""

    speaks: ClassVar[tuple[str, ...]] = ("tool",)

    max_result_chars: int = Field(default=2000, gt=0)
    """Longest answer of a tool; the rest of a longer one is cut off, and the model is told."""

    _offered: list[dict[str, Any]] | None = PrivateAttr(default=None)

    def offer(self, tools: list[dict[str, Any]]) -> None:
        """What `tools` said before the first conversation, which the prompt offers."""
        self._offered = tools

    def call(self, name: str, arguments: dict[str, Any]) -> Any:
        """What the tool answers; may be async. Raises ToolError with words for the model."""
        raise TypeError(f"{type(self).__name__} has no call(name, arguments)")

    async def step(self, turn: Turn) -> Step:
        """Each call is answered in its order; without any, the turn was the last one."""
        if turn.errors:
            # as it would be served: the turn has no calls, and its client says what is wrong
            return Step([{"role": "tool", "content": f"error: {'; '.join(turn.errors)}"}])
        if not turn.calls:
            return Step(done=True, reason="no tool was called")
        answers = [await self._answer(call) for call in turn.calls]
        errors = sum(failed for _, failed in answers)
        return Step([message for message, _ in answers], metrics={CALLS: len(answers), ERRORS: errors})

    async def _answer(self, call: Call) -> tuple[Message, bool]:
        try:
            self._check(call)
            found = self.call(call.name, call.arguments)
            content, failed = str(await found if inspect.isawaitable(found) else found), False
        except ToolError as cause:
            content, failed = f"error: {cause}", True
        if (more := len(content) - self.max_result_chars) > 0:
            content = f"{content[: self.max_result_chars]}... ({more} more characters)"
        return {"role": "tool", "name": call.name, "tool_call_id": call.id, "content": content}, failed

    def _check(self, call: Call) -> None:
        """Raise ToolError where there is no such tool, or it is called with other arguments than it takes."""
        known = {tool["function"]["name"]: tool["function"].get("parameters") or {} for tool in (self._offered or self.tools())}
        if call.name not in known:
            raise ToolError(f"there is no tool {call.name[:60]!r}; there are: {', '.join(known)}")
        schema = known[call.name]
        missing = [name for name in schema.get("required", ()) if name not in call.arguments]
        if missing:
            raise ToolError(f"{call.name} needs the argument {missing[0]!r}")
        properties = schema.get("properties")
        if properties is not None and schema.get("additionalProperties", False) is False:
            extra = [name for name in call.arguments if name not in properties]
            if extra:
                raise ToolError(f"{call.name} has no argument {extra[0][:60]!r}; it has: {', '.join(properties)}")
