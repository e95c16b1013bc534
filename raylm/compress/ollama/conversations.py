"""Fifty conversations on which two chat templates must give the same text."""

from __future__ import annotations

from typing import Any, NamedTuple

SYSTEMS = ("You are a terse assistant.", "Réponds en français.\nUse at most {two} sentences.", ' Say "no" <twice> & stop. ')
# lines, spaces at both ends, other scripts, code, braces of both template languages, quotes, markup
TEXTS = (
    "What is the capital of France?",
    "Paris.",
    "  Two spaces before, a newline behind\n",
    "First line\n\nthird line\n\t- indented",
    "naïve café, 日本語, Здравствуй, 🙂👩‍👩‍👧",
    "def f(x):\n    return {'a': x % 2}\n",
    '{{ .Content }} {% if x %} {"key": [1, 2.5, null]}',
    "<b>bold</b> & \"quoted\" 'too' \\n `raw`",
    "1",
    "A longer answer, which goes on for a while, has commas; and a colon: here. " * 4,
    "\nIt begins with a newline",
)
THOUGHT = "The user asks.\nI count to 3."


class Conversation(NamedTuple):
    """Messages as transformers takes them; `continued`: the last one is an answer that a model is to go on with."""

    messages: list[dict[str, Any]]

    @property
    def continued(self) -> bool:
        return self.messages[-1]["role"] == "assistant"

    @property
    def system(self) -> bool:
        return self.messages[0]["role"] == "system"

    @property
    def thinks(self) -> bool:
        return any(message.get("reasoning_content") for message in self.messages)


def conversations(thoughts: bool = False) -> list[Conversation]:
    """Fifty: one to six questions, half of them after a system message, ten that end inside an answer.

    Args:
        thoughts: the template knows thoughts: ten of them have some in their answers.
    """
    found = []
    for number in range(50):
        turns, begun = 1 + number // 2 % 6, number % 5 == 4
        messages: list[dict[str, Any]] = []
        if number % 2:
            messages.append({"role": "system", "content": SYSTEMS[number // 2 % len(SYSTEMS)]})
        for turn in range(turns):
            at = number * 7 + turn * 2
            messages.append({"role": "user", "content": TEXTS[at % len(TEXTS)]})
            if turn < turns - 1 or begun:
                messages.append({"role": "assistant", "content": TEXTS[(at + 1 + number // 11) % len(TEXTS)]})
                if thoughts and number % 5 == 3:
                    messages[-1]["reasoning_content"] = THOUGHT
        found.append(Conversation(messages))
    return found
