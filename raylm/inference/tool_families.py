"""Which form of tool calls a model writes, told from its chat template: the name of vLLM's parser that reads them."""

from __future__ import annotations

from typing import Any

HERMES = "hermes"
# what a chat template writes around calls, and the parser that reads it; the first line that is all found counts
FAMILIES = (
    (("<function=",), "qwen3_coder"),
    (("<arg_key>",), "glm45"),
    (("<|tool_calls_section_begin|>",), "kimi_k2"),
    (("<\uff5ctool\u2581calls\u2581begin\uff5c>", "```json"), "deepseek_v3"),
    (("<\uff5ctool\u2581calls\u2581begin\uff5c>",), "deepseek_v31"),
    (("<minimax:tool_call>",), "minimax_m2"),
    (("[TOOL_CALLS]",), "mistral"),
    (("<|channel|>",), "openai"),
    (("<|python_tag|>",), "llama3_json"),
    (("<|tool_call_start|>",), "lfm2"),
    (("<|tool_call>",), "gemma4"),
    (("<tool_call>",), HERMES),
)


def family_of(tokenizer: Any, tools: list[dict[str, Any]] | None = None) -> str:
    """The parser for what the tokenizer's chat template writes; "" where there is none, or it tells no family.

    Args:
        tools: tokenizers with several templates have one for them.
    """
    try:
        template = str(tokenizer.get_chat_template(tools=tools))
    except ValueError:
        return ""  # it has none
    return next((family for marks, family in FAMILIES if all(mark in template for mark in marks)), "")
