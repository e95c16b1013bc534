"""Turns of a conversation as tokens: the prompt, and what stands between two turns of the model.

messages --chat template--> text before the answer of an environment | text behind it --> the difference, as tokens

What the model drew is never tokenized again: only what its template writes behind it, up to where it speaks again.
"""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

from raylm.core.errors import ConfigError, DataError
from raylm.model.checkpoint import turn_end
from raylm.rl.environments.environment import Message
from raylm.rl.tool_calls import Parse, Parsed, parser_of

# what a template may raise on turns that it was not written for
_FAILURES = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, AssertionError, RuntimeError)
_REWRITES = "the chat template writes earlier turns anew once the environment has answered"
_HM = "Qh5"
"""What is thought in a trial."""
_TAKE = "take a template that keeps the turns before an answer as they were"


class Suffix(NamedTuple):
    """What stands between two turns of the model."""

    tokens: list[int]
    rendered: str
    """The whole conversation up to where the model speaks next."""
    rewritten: bool
    """The template would write the model's last turn in other words than it was drawn: calls spaced otherwise, thoughts."""


class ChatTurns:
    """One model's chat template, with the tools that an environment offers.

    Args:
        tokenizer: a fast tokenizer.
        ends: tokens at which the generator ends a completion.
        tool_parser: the name of a parser, or auto.

    Raises:
        ConfigError: there is no template, or no parser for the calls that it writes.
    """

    def __init__(self, tokenizer: Any, ends: list[int], tools: list[dict[str, Any]], tool_parser: str = "auto") -> None:
        if not getattr(tokenizer, "chat_template", None):
            raise ConfigError("the model has no chat template, an environment cannot speak to it", where="environment")
        self._coder, self._ends, self._tools = tokenizer, set(ends), tools or None
        end = turn_end(tokenizer)
        if end is None or end not in self._ends:
            raise ConfigError(
                "the model's chat template ends an answer with no token at which the generator stops",
                where="environment",
                next="name it as eos_token_id in the model's generation_config.json",
            )
        self._end, self._end_text = end, str(tokenizer.added_tokens_decoder[end].content)
        specials = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
        self._special = re.compile("|".join(map(re.escape, sorted(specials, key=len, reverse=True))) or "(?!)")
        self._parse: Parse | None = None
        self._mark, self._error_role = "", "tool"
        if tools:
            self.parser, self._parse = parser_of(tool_parser, tokenizer, tools)

    def prompt(self, messages: list[Message]) -> tuple[list[int], str]:
        """(tokens, text) of what is asked, up to where the model speaks. Raises DataError where the template refuses it."""
        text = self._render(messages, prompt=True)
        return self._encode(text), text

    def parse(self, tokens: list[int]) -> tuple[str, Parsed, bool]:
        """(the text of one turn less its end, the calls in it, whether it ended as the template ends turns)."""
        ended = bool(tokens) and tokens[-1] in self._ends
        drawn = tokens[:-1] if ended else tokens
        text = str(self._coder.decode(drawn, skip_special_tokens=False, clean_up_tokenization_spaces=False))
        parsed = self._parse(text) if self._parse else Parsed(text, [], [])
        if self._mark and self._mark in text and not parsed.calls and not parsed.errors:
            parsed = parsed._replace(errors=["the call cannot be read"])
        return text, parsed, ended and tokens[-1] == self._end

    def suffix(self, before: str, messages: list[Message], said: str, answer: list[Message]) -> Suffix:
        """What comes between a turn of the model that ended with the template's token, and its next one.

        Args:
            before: the conversation as it was rendered when the model was asked for the turn.
            messages: all messages, that turn the last.
            said: the text of that turn.
            answer: what the environment says to it.

        Raises:
            DataError: the template refuses the messages, or would rewrite what stands before them.
        """
        rendered = self._render([*messages, *answer], prompt=True)
        drawn = before + said + self._end_text
        as_drawn = rendered.startswith(drawn)
        # of a turn that the template writes otherwise, the next end is its own: no model draws that token and goes on
        at = len(drawn) if as_drawn else rendered.find(self._end_text, len(before)) + len(self._end_text)
        if not rendered.startswith(before) or at <= len(before) or self._end_text in said:
            raise DataError("template_rewrites_turns", next=_TAKE)
        behind = rendered[at:]
        tokens = self._encode(self._end_text + behind)
        if tokens[:1] != [self._end]:
            raise DataError("template_rewrites_turns", next="the tokenizer joins the end of a turn with what follows it")
        return Suffix(tokens[1:], rendered, not as_drawn)

    def harmless(self, messages: list[Message]) -> list[Message]:
        """The messages with a gap in each special token that they spell: an answer of a tool must not forge a turn. What a tool
        says of a call that could not be read has the role that the template takes without one."""
        mended = [dict(message) for message in messages]
        for message in mended:
            if message["role"] == "tool" and "tool_call_id" not in message:
                message["role"] = self._error_role
            message["content"] = self._special.sub(lambda found: f"{found[0][:1]} {found[0][1:]}", message["content"])
        return mended

    def plain(self, text: str) -> str:
        """The text without special tokens, as rewards see a completion."""
        return self._special.sub("", text)

    def check(self, speaks: tuple[str, ...]) -> None:
        """Try a conversation with an environment that speaks in these roles.

        Raises:
            ConfigError: the template refuses it, or rewrites turns; or writes calls that the parser does not read.
        """
        if self._tools:
            self._check_calls(self._tools[0]["function"]["name"])
            broken = [{"role": "assistant", "content": "Zq7"}, {"role": "tool", "content": "error: no JSON"}]
            try:
                self._talk([broken])
            except DataError:
                self._error_role = "user"
                self._talk_or_refuse([[broken[0], *self.harmless(broken[1:])]])
        for role in speaks:
            if role != "tool":
                self._talk_or_refuse([[{"role": "assistant", "content": "Zq7"}, {"role": role, "content": "Ab"}]] * 2)
            elif self._tools:
                self._talk_or_refuse([self._called(number) for number in range(2)])

    def _called(self, number: int) -> list[Message]:
        name = self._tools[0]["function"]["name"] if self._tools else ""
        call = {"id": call_id(number, 0), "type": "function", "function": {"name": name, "arguments": {"Zq8": "Xk9"}}}
        return [
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": "Ab", "name": name, "tool_call_id": call["id"]},
        ]

    def _check_calls(self, name: str) -> None:
        """Raise ConfigError where a call that the template writes is not the one that the parser reads."""
        question: list[Message] = [{"role": "user", "content": "Ab"}]
        try:
            before = self._render(question, prompt=True)
            asked, answer = self._called(0)
            rendered = self._render([*question, self._thought(before, asked), answer], prompt=True)
        except DataError as cause:
            raise _refused(cause) from cause
        if not rendered.startswith(before):
            raise _refused(DataError("template_rewrites_turns"))
        written = rendered[len(before) :].partition(self._end_text)[0]
        if name not in written:
            raise ConfigError("the model's chat template does not write the calls of tools", where="environment", next=_TAKE)
        assert self._parse is not None
        try:
            found = self._parse(written)
        except _FAILURES as cause:
            raise ConfigError(f"the tool parser {self.parser!r} cannot be used here: {cause}", where="tool_parser") from cause
        if found.calls != [{"name": name, "arguments": {"Zq8": "Xk9"}}]:
            raise ConfigError(
                f"the model's chat template writes a call as {written[:120]!r}, the tool parser {self.parser!r} does not read it",
                where="tool_parser",
                next="name vLLM's parser of the model's family: tool_parser = ...",
            )
        opening = written[: written.find(name)].rpartition("</think>")[2]
        self._mark = re.split(r"[\s\[{]", opening.strip(), maxsplit=1)[0]

    def _talk_or_refuse(self, rounds: list[list[Message]]) -> None:
        try:
            self._talk(rounds)
        except DataError as cause:
            raise _refused(cause) from cause

    def _talk(self, rounds: list[list[Message]]) -> None:
        """One conversation of these rounds, with thoughts where the template knows them. Raises DataError."""
        messages: list[Message] = [{"role": "user", "content": "Ab"}]
        before = self._render(messages, prompt=True)
        for turn, *answer in rounds:
            messages.append(self._thought(before, turn))
            before = self.suffix(before, messages, "", answer).rendered
            messages += answer
        if before.count(_HM) != sum(_HM in message["content"] for message in messages):
            raise DataError("template_rewrites_turns", next=_TAKE)

    def _thought(self, before: str, turn: Message) -> Message:
        """The turn as a model says it that thinks first, where the template knows thoughts."""
        asked = before.rstrip()
        # a template may open the thoughts in the prompt, or close them there
        if "</think>" not in str(self._coder.get_chat_template(tools=self._tools)) or asked.endswith("</think>"):
            return turn
        opened = "" if asked.endswith("<think>") else "<think>\n"
        return {**turn, "content": f"{opened}{_HM}\n</think>\n\n{turn['content']}"}

    def _render(self, messages: list[Message], prompt: bool) -> str:
        import jinja2

        try:
            return str(self._coder.apply_chat_template(messages, tools=self._tools, tokenize=False, add_generation_prompt=prompt))
        except jinja2.TemplateError as cause:
            raise DataError("template_refuses", next=str(cause)) from cause
        except _FAILURES as cause:
            raise DataError(f"template_fails: {type(cause).__name__}", next=str(cause)) from cause

    def _encode(self, text: str) -> list[int]:
        return [int(token) for token in self._coder.encode(text, add_special_tokens=False)]


def call_id(turn: int, place: int) -> str:
    """Nine letters and digits, as Mistral's templates want them."""
    return f"c{turn:04d}{place:04d}"


def turn_of(content: str, calls: list[dict[str, Any]], turn: int) -> Message:
    """A turn of the model as a message."""
    if not calls:
        return {"role": "assistant", "content": content}
    made = [{"id": call_id(turn, place), "type": "function", "function": call} for place, call in enumerate(calls)]
    return {"role": "assistant", "content": content, "tool_calls": json.loads(json.dumps(made))}


def _refused(cause: DataError) -> ConfigError:
    what = _REWRITES if cause.what == "template_rewrites_turns" else f"the model's chat template refuses the environment: {cause}"
    return ConfigError(what, where="environment", next=cause.next or _TAKE)
