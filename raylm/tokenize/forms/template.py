"""One chat template of a tokenizer: rendered as transformers' apply_chat_template does, and what it writes around an answer.

A template of another kind may read thoughts under another key than `reasoning_content` (gpt-oss: `thinking`): they are given to
it under the key that it reads.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from raylm.core.errors import DataError
from raylm.data.messages import Dialogue

Span = tuple[int, int]
Tools = list[dict[str, Any]] | None

_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
# what a template may raise on a row that it was not written for; that row is dropped
_FAILURES = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, AssertionError, RuntimeError)
_WORDS, _THOUGHT = "\ue0f2", "\ue0f3"
_REASONING = "reasoning_content"
# gpt-oss, and what vLLM also calls it
_OTHER_KEYS = ("thinking", "reasoning")


class Template:
    """A template with the values that the tokenizer gives it."""

    def __init__(self, source: str, values: Mapping[str, Any], special: re.Pattern[str]) -> None:
        """`special`: finds the tokenizer's special tokens in a text."""
        self.source, self._values, self._special = source, values, special
        self.marked = bool(_GENERATION.search(source))
        self.reasoning_key = _REASONING
        self.behind_user: str | None = None
        """What stands between a user's words and an answer; None where the template renders no single question."""
        self.prompt, self.user_tail, self.tail = "", "", ""
        """The generation prompt; what closes a user's turn, and an answer."""
        self._read()
        first = special.search(self.tail)
        self.end_token = first[0] if first else ""
        """The special token that closes an answer; "" where there is none."""

    def text(self, turns: Dialogue, tools: Tools = None, prompt: bool = False, safe: bool = False) -> str:
        """The text that `apply_chat_template` gives, with the generation prompt where `prompt`.

        Args:
            safe: the turns are known to spell no special token.

        Raises:
            DataError: the template refuses the turns, or one of their strings spells a special token.
        """
        return self._render(turns, tools, prompt, False, safe)[0]

    def tracked(self, turns: Dialogue, tools: Tools = None) -> tuple[str, list[Span] | None]:
        """The text, and the spans of `{% generation %}` in it; None where the template has no such marks."""
        text, spans = self._render(turns, tools, False, self.marked, False)
        return text, sorted(spans[0]) if self.marked else None

    def _render(self, turns: Dialogue, tools: Tools, prompt: bool, tracked: bool, safe: bool) -> tuple[str, Any]:
        import jinja2
        from transformers.utils.chat_template_utils import render_jinja_template

        if not safe and any(self._special.search(text) for text in strings([turns, tools])):
            raise DataError("special_token_in_text")
        try:
            rendered: Any = render_jinja_template(
                [self._keyed(turns)],
                tools=None if tools is None else [*tools],
                chat_template=self.source,
                return_assistant_tokens_mask=tracked,
                add_generation_prompt=prompt,
                **self._values,
            )
        except jinja2.TemplateError as cause:
            raise DataError("template_refuses", next=str(cause)) from cause
        except _FAILURES as cause:
            raise DataError(f"template_fails: {type(cause).__name__}", next=str(cause)) from cause
        return rendered[0][0], rendered[1]

    def _keyed(self, turns: Dialogue) -> Dialogue:
        if self.reasoning_key == _REASONING:
            return turns
        return [{self.reasoning_key if key == _REASONING else key: value for key, value in turn.items()} for turn in turns]

    def _read(self) -> None:
        """Find out what the template writes behind a user's words before an answer, the generation prompt, an answer's end."""
        for turns in _questions():
            try:
                waiting, closed = (self.text(turns, prompt=prompt, safe=True) for prompt in (True, False))
                answered = self.text([*turns, {"role": "assistant", "content": _WORDS}], safe=True)
            except DataError:
                continue
            if not all(_WORDS in text for text in (waiting, closed, answered)):
                continue
            self.behind_user, behind = (text.rpartition(_WORDS)[2] for text in (waiting, closed))
            shared = next((at for at, (one, other) in enumerate(zip(self.behind_user, behind, strict=False)) if one != other),
                          min(len(behind), len(self.behind_user)))  # fmt: skip
            self.prompt, self.user_tail, self.tail = self.behind_user[shared:], behind, answered.rpartition(_WORDS)[2]
            self.reasoning_key = self._read_reasoning(turns)
            return

    def _read_reasoning(self, question: Dialogue) -> str:
        for key in (_REASONING, *_OTHER_KEYS):
            try:
                said = self.text([*question, {"role": "assistant", "content": _WORDS, key: _THOUGHT}], safe=True)
            except DataError:
                continue
            if _THOUGHT in said:
                return key
        return _REASONING


def strings(value: Any) -> Iterator[str]:
    """All strings in a value, the keys of objects too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from strings(key)
            yield from strings(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from strings(item)


def _questions() -> tuple[Dialogue, Dialogue]:
    """A question alone; and behind a system prompt, which some templates want."""
    question = [{"role": "user", "content": _WORDS}]
    return question, [{"role": "system", "content": "x"}, *question]
