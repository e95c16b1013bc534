"""The `calculator` environment: one tool that works out arithmetic."""

from __future__ import annotations

from typing import Any, Literal

from raylm.rl.environments.arithmetic import calculate
from raylm.rl.environments.tool_environment import ToolEnvironment, ToolError

_TOOL = {
    "type": "function",
    "function": {
        "name": "calculator",
        "description": "Work out an arithmetic expression.",
        "parameters": {"type": "object", "properties": {"expression": {"type": "string"}}, "required": ["expression"]},
    },
}


class Calculator(ToolEnvironment):
    """A tool `calculator(expression)` for + - * / // % ** and brackets, exact. What is scored is the model's last turn."""

    kind: Literal["calculator"] = "calculator"

    def tools(self) -> list[dict[str, Any]]:
        return [_TOOL]

    def call(self, name: str, arguments: dict[str, Any]) -> str:
        try:
            return calculate(str(arguments["expression"]))
        except ValueError as cause:
            raise ToolError(str(cause)) from None
