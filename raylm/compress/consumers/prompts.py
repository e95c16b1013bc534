"""The prompts that an export is proved on: held-out ones of an artifact, or made of the chat template and plain text."""

from __future__ import annotations

import json
from itertools import cycle, islice
from typing import Any

from raylm.compress.consumers.consumer import Prompt
from raylm.core.errors import DataError

# what pre-tokenizers disagree on: numbers, contractions, spaces, line breaks, scripts, code, marks and emoji
TEXTS = (
    "The quick brown fox jumps over the lazy dog, and then it",
    "It's 12345 + 6.7e-8 = 1,000,000; we'LL see, they'Ve said",
    "def add(first, second):\n    return first + second\n\n\ndef sub(",
    "  two  spaces,   three and\ttabs\n\n\n and lines\r\n",
    "Im Jahr 2024 fiel der Preis um 37 % auf 1.299,00 €, weil",
    "naïve café Ångström ﬁ Ⅷ ½ «so» …",
    "日本語と中文字符、한국어 ไทย हिन्दी עברית العربية",
    "🦜 👩\u200d👩\u200d👧 🇩🇪 👍🏽!",
    "{\"key\": [1, 22, 333, 4444, 55555], 'x': \"\\n\"}",
    "for (int i = 0; i < n; ++i) { sum += a[i] * b[i]; } // done",
    "SELECT name, COUNT(*) FROM t WHERE x >= 10 GROUP BY name",
    "https://example.org/a/b?c=d&e=%20f#g and mail@example.org",
)  # fmt: skip
QUESTIONS = (
    "What is {a} plus {b}?",
    "Name {a} animals and {b} plants, please.",
    "Write a function that returns the {b}th prime.",
    "Who was the {a}. president in the year {b}?",
    "Translate 'chapter {b}' into French.",
    "I'm {b} years old. How old was I {a} years ago?",
)
SYSTEM = "You are a helpful assistant."


def made_prompts(tokenizer: Any, count: int) -> list[Prompt]:
    """`count` prompts, the same each time: conversations and plain text in turn where there is a chat template, else text."""
    texts: list[Prompt] = [f"{text}{'' if n < len(TEXTS) else f' {n}'}" for n, text in islice(enumerate(cycle(TEXTS)), count)]
    talks = conversations(tokenizer, count // 2)
    return [*talks, *texts[: count - len(talks)]]


def conversations(tokenizer: Any, count: int) -> list[Prompt]:
    """Conversations that the template renders: questions alone, with a system message, after a first answer; [] without one."""
    from jinja2 import TemplateError

    if not getattr(tokenizer, "chat_template", None):
        return []
    found: list[Prompt] = []
    for number in range(6 * count):
        asked = QUESTIONS[number % len(QUESTIONS)].format(a=number % 7 + 2, b=number * 13 % 97 + 3)
        before = (
            [],
            [{"role": "system", "content": SYSTEM}],
            [{"role": "user", "content": TEXTS[number % len(TEXTS)]}, {"role": "assistant", "content": "I see."}],
        )[number % 3]
        talk = [*before, {"role": "user", "content": asked}]
        try:
            tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
        except (TemplateError, ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError):
            # many templates take no system message
            continue
        found.append(talk)
        if len(found) == count:
            break
    return found


def stored_prompts(uri: str, count: int) -> list[Prompt]:
    """The first held-out rows of an artifact of prompts (`train` ones where none are held out), as they were asked. Rows with
    more than text in their messages (calls of tools, images) are passed over.

    Raises:
        DataError: no row can be asked.
    """
    from raylm.data.shards import Rows

    rows: Any = next((each for split in ("held_out", "train") if len(each := Rows.open(uri, split))), [])
    found: list[Prompt] = []
    for number in range(len(rows)):
        if len(found) == count:
            break
        messages = json.loads(rows[number]["messages"])
        if all(set(each) <= {"role", "content"} and isinstance(each.get("content"), str) for each in messages):
            found.append(messages)
    if not found:
        raise DataError("no row here is a conversation of text alone", where=uri, next="drop `prompts`: others are made")
    return found
