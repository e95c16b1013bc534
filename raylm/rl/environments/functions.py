"""The `functions` environment: somebody's Python functions as tools."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, Literal

from pydantic import Field

from raylm.core.errors import ConfigError
from raylm.rl.environments.tool_environment import ToolEnvironment, ToolError
from raylm.rl.rewards.measure import in_words


class Functions(ToolEnvironment):
    """Python functions, plain or async, with type hints and a docstring in Google's style: its first lines describe the tool,
    `Args:` its parameters (as transformers' `get_json_schema` and TRL's `tools` read them). What a function raises is told to
    the model as an error."""

    kind: Literal["functions"] = "functions"
    functions: list[str] = Field(min_length=1)
    """Import paths, `package.module:function`."""

    def preload(self) -> None:
        """Import them. Raises ConfigError where one cannot be imported."""
        for path in self.functions:
            _imported(path)

    def tools(self) -> list[dict[str, Any]]:
        from transformers.utils.chat_template_utils import DocstringParsingException, TypeHintParsingException, get_json_schema

        made = []
        for path in self.functions:
            try:
                schema = get_json_schema(_imported(path))
            except (DocstringParsingException, TypeHintParsingException, ValueError) as cause:
                raise ConfigError(
                    f"the function {path!r} is not described: {cause}",
                    where="environment.functions",
                    next="give each argument a type hint, and a line under `Args:` in the docstring",
                ) from None
            schema["function"].pop("return", None)
            made.append(schema)
        return made

    def call(self, name: str, arguments: dict[str, Any]) -> Any:
        function = next(found for path in self.functions if (found := _imported(path)).__name__ == name)
        return self._told(function, arguments)

    async def _told(self, function: Callable[..., Any], arguments: dict[str, Any]) -> Any:
        import inspect

        try:
            found = function(**arguments)
            return await found if inspect.isawaitable(found) else found
        # somebody else's code, called with what a model wrote: whatever it raises, the model is told
        except (Exception, SystemExit) as cause:
            raise ToolError(in_words(cause)) from None


def _imported(path: str) -> Callable[..., Any]:
    module, _, name = path.partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
    # somebody else's module: a mistake in it shows as any exception
    except (Exception, SystemExit) as cause:
        raise ConfigError(f"cannot import the function {path!r}: {in_words(cause)}", where="environment.functions") from None
    if not callable(function):
        raise ConfigError(f"{path!r} is a {type(function).__name__}, no function", where="environment.functions")
    return function
