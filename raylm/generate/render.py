"""Prompts as the model sees them: a document's question by its chat template, or its text as it stands."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from raylm.core.errors import ConfigError, DataError
from raylm.data.messages import Dialogue
from raylm.data.records import GROUND_TRUTHS, as_prompt
from raylm.data.row_template import template_of
from raylm.data.tools import tools_of


class Drawn(NamedTuple):
    """A rendered prompt; `turns` None where it is plain text, `beside`: what else a record of the answer keeps."""

    tokens: list[int]
    text: str
    turns: Dialogue | None = None
    beside: dict[str, Any] = {}


class Renderer:
    """Renders by one tokenizer.

    Args:
        template: Jinja over a row's columns; None for the row's own prompt or text.
        system: system prompt before it; None for none.
        chat: by the chat template.

    Raises:
        ConfigError: the tokenizer has no chat template.
    """

    def __init__(self, tokenizer: Any, template: str | None = None, system: str | None = None, chat: bool = True) -> None:
        self._tokenizer, self._system, self._chat = tokenizer, system, chat
        self._template = template_of(template) if template is not None else None
        specials = sorted(
            (token.content for token in tokenizer.added_tokens_decoder.values() if token.special), key=len, reverse=True
        )
        self._special = re.compile("|".join(map(re.escape, specials)) or "(?!)")
        if chat and not getattr(tokenizer, "chat_template", None):
            raise ConfigError(
                "the model's tokenizer has no chat template", where="chat", next="say chat = false: it then goes on with texts"
            )

    def document(self, row: dict[str, Any], structured: bool) -> Drawn:
        """The prompt of a row of columns.

        Args:
            structured: the row has one of the shapes of dialogues or prompts.

        Raises:
            DataError: the row has none, the template fails or leaves words out, or a text spells a special token; `what` is
                short enough to be counted by.
        """
        if not self._chat:
            text = self._text_of(row)
            self._refuse_special(text)
            return Drawn(self._tokenizer(text)["input_ids"], text)
        turns, beside = self._turns(row, structured)
        tools = tools_of(row) if structured and self._template is None else None
        text = self._rendered(turns, tools)
        tokens = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return Drawn(tokens, text, turns, beside | ({"tools": tools} if tools else {}))

    def text(self, tokens: list[int]) -> str:
        """A rendered prompt as text."""
        return self._tokenizer.decode(tokens, skip_special_tokens=False)

    def _text_of(self, row: dict[str, Any]) -> str:
        text = self._template.render(row) if self._template else row["text"]
        if not text.strip():
            raise DataError("empty_prompt")
        return text

    def _turns(self, row: dict[str, Any], structured: bool) -> tuple[Dialogue, dict[str, Any]]:
        beside = {name: row[name] for name in GROUND_TRUTHS if row.get(name) is not None}
        own = structured and self._template is None
        turns = as_prompt(row)[0] if own else [{"role": "user", "content": self._text_of(row)}]
        if self._system is not None:
            if turns[0]["role"] in ("system", "developer"):
                raise DataError("two_system_prompts")
            turns = [{"role": "system", "content": self._system}, *turns]
        return turns, beside

    def _rendered(self, turns: Dialogue, tools: Any) -> str:
        from jinja2 import TemplateError

        contents = [turn["content"] for turn in turns if isinstance(turn.get("content"), str)]
        for content in contents:
            self._refuse_special(content)
        try:
            text = self._tokenizer.apply_chat_template(turns, tools=tools, tokenize=False, add_generation_prompt=True)
        except (TemplateError, TypeError, ValueError, KeyError, AttributeError) as cause:
            raise DataError("template_refuses", next=str(cause)) from cause
        if any(content.strip() not in text for content in contents):
            raise DataError("template_leaves_words_out")
        return text

    def _refuse_special(self, text: str) -> None:
        """A text that spells a special token could end its turn and forge another one."""
        if self._special.search(text):
            raise DataError("special_token_in_text")
