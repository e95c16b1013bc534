"""vLLM's parsers of tool calls, which its server uses and which are no documented interface. Its test names the version."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from raylm.core.config import did_you_mean
from raylm.core.errors import ConfigError

VLLM = "0.32"
"""The version whose source this file was written against."""


def vllm_parser(name: str, tokenizer: Any, tools: list[dict[str, Any]]) -> Callable[[str], tuple[str, list[dict[str, Any]]]]:
    """vLLM's parser of that name as a function: text of one turn, special tokens kept -> (content, calls).

    Calls are `{"name": ..., "arguments": "<JSON>"}`; none where the parser reads none, also where it fails.

    Raises:
        ConfigError: vLLM has no parser of that name, or it does not take this tokenizer.
    """
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.tool_parsers import ToolParserManager

    try:
        kind = ToolParserManager.get_tool_parser(name)
    except KeyError:
        known = [*ToolParserManager.lazy_parsers, *ToolParserManager.tool_parsers]
        raise ConfigError(f"vLLM has no tool parser {name!r}.{did_you_mean(name, known)}", where="tool_parser") from None
    request = ChatCompletionRequest(model="", messages=[{"role": "user", "content": ""}], tools=tools or None)  # type: ignore[arg-type]

    offered: Any = request.tools

    def read(text: str) -> tuple[str, list[dict[str, Any]]]:
        # a new one for each turn: parsers keep what they have streamed
        found = kind(tokenizer, offered).extract_tool_calls(text, request)
        calls = [{"name": call.function.name, "arguments": call.function.arguments} for call in found.tool_calls]
        return found.content or "", calls

    try:
        kind(tokenizer, offered)
    except (RuntimeError, ValueError, TypeError, AttributeError) as cause:
        raise ConfigError(f"vLLM's tool parser {name!r} does not take this tokenizer: {cause}", where="tool_parser") from cause
    return read
