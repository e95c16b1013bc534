"""Which form of thoughts a model writes before its answer, told from its chat template: vLLM's name of what reads it."""

from __future__ import annotations

from typing import Any

OPEN, CLOSE = "<think>", "</think>"
# what a chat template writes around thoughts, and the parser that reads them; the first line that is all found counts
FAMILIES = (
    (("<|channel|>",), "openai_gptoss"),
    (("<seed:think>",), "seed_oss"),
    (("[THINK]",), "mistral"),
    (("<|tool_calls_section_begin|>", CLOSE), "kimi_k2"),
    (("<arg_key>", CLOSE), "glm45"),
    (("<minimax:tool_call>", CLOSE), "minimax_m2"),
    # DeepSeek V3.1: `thinking` is an argument of its template
    (("<\uff5cAssistant\uff5c>", "thinking", CLOSE), "deepseek_v3"),
    (("<\uff5cAssistant\uff5c>", CLOSE), "deepseek_r1"),
    # thinks unless the argument says otherwise
    (("enable_thinking", CLOSE), "qwen3"),
)
OPENED = "deepseek_r1"
"""The parser of models whose template opens the thought itself: the answer begins within it."""
TOKENS = {"openai_gptoss": "<|channel|>", "seed_oss": "<seed:think>", "mistral": "[THINK]"}
ASK = [{"role": "user", "content": "x"}]


def reasoning_family_of(tokenizer: Any) -> str:
    """The parser of thoughts that the tokenizer's chat template knows; "" where it knows none, or the thought has no tokens of
    its own: it is then a part of the answer, and nothing is lost."""
    try:
        template = str(tokenizer.get_chat_template())
    except ValueError:
        return ""  # it has none
    family = next((family for marks, family in FAMILIES if all(mark in template for mark in marks)), "")
    if not family and CLOSE in template and _opens(tokenizer):
        family = OPENED
    # the parsers look for a token, not for a text
    known = tokenizer.get_vocab()
    needed = (TOKENS[family],) if family in TOKENS else (OPEN, CLOSE)
    return family if family and all(token in known for token in needed) else ""


def _opens(tokenizer: Any) -> bool:
    from jinja2 import TemplateError

    try:
        asked = tokenizer.apply_chat_template(ASK, tokenize=False, add_generation_prompt=True)
    except (TemplateError, TypeError, ValueError):
        return False
    return str(asked).rstrip().endswith(OPEN)
