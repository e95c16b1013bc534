"""Conversations with a scripted generator: what it says is tokenized once, as a generator draws it, and ends with a token."""

from __future__ import annotations

import json
from typing import Any

from raylm.inference.completions import Completion, VersionSpan
from raylm.model.checkpoint import turn_end
from raylm.rl.chat_turns import ChatTurns
from raylm.rl.conversations import Conversations, Ended, Request
from raylm.rl.environments.processes import Processes
from raylm.rl.types import Prompt
from raylm.tokenize.trainers.layout import CHAT_TEMPLATE
from tests.model.tiny import tiny_tokenizer


def prompt(text: str = "What is 6 * 7?", row: int = 0, ground_truth: str | None = None) -> Prompt:
    return Prompt(row, [], json.dumps([{"role": "user", "content": text}]), ground_truth)


def coder_of(template: str = CHAT_TEMPLATE) -> Any:
    coder = tiny_tokenizer()
    coder.chat_template = template
    return coder


def conversations(card: Any, coder: Any = None, most: int = 4, **limits: Any) -> Conversations:
    coder, processes = coder or coder_of(), Processes(card, most)
    chat = ChatTurns(coder, [turn_end(coder)], processes.tools())
    usual = {"max_tokens": 400, "max_len": 800, "max_turns": 8, "timeout_s": 20.0, "rewarded": card_of(card).rewarded}
    return Conversations(chat, processes, **usual | limits)


def card_of(card: Any) -> Any:
    from raylm.core.config import resolve

    return resolve(card)


def say(coder: Any, text: str, most: int = 10**9, version: int = 0) -> Completion:
    """What a generator would have drawn: the text and its end, or what of it stays within `most` tokens."""
    tokens = [*coder.encode(text, add_special_tokens=False), turn_end(coder)]
    reason = "stop" if len(tokens) <= most else "length"
    tokens = tokens[:most]
    return Completion(tokens, [-0.5] * len(tokens), text, reason, (VersionSpan(version, 0, len(tokens)),))


def talk(made: Conversations, coder: Any, asked: dict[Any, Prompt], policy: Any, within: int = 200) -> dict[Any, Ended]:
    """Begin all conversations and let the policy answer each request: policy(text so far, request) -> text or Completion."""
    for key, one in asked.items():
        made.begin(key, one, seed=7)
    ended: dict[Any, Ended] = {}
    for _ in range(within):
        for one in made.ready(5.0):
            if isinstance(one, Request):
                said = policy(coder.decode(one.tokens), one)
                made.next(one.key, say(coder, said, one.max_tokens) if isinstance(said, str) else said)
            else:
                ended[one.key] = one
        if len(ended) == len(asked):
            return ended
    raise AssertionError(f"{len(asked) - len(ended)} conversations did not end")
