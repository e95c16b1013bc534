"""The events of one stream of /v1/completions or /v1/chat/completions as they pass: what the client sees of them, the tokens that
it got, and how another replica goes on when this one dies.

vLLM is asked for token ids and usage, which are cut out of what the client did not ask for. So a client that leaves early is
charged what it got, and `prompt ids + sent ids` is a prompt that another replica continues, in the same words.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import orjson

from raylm.serve.engine.spans import COMMENT, Mark, marks_in

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
STREAMS = (CHAT, COMPLETIONS)
DONE = b"data: [DONE]\n\n"
# a key follows a comma, and within a text of JSON these quotes are escaped
_IDS = re.compile(rb',"token_ids":(?:null|\[([\d,]*)\])')
_PROMPT_IDS = re.compile(rb',"prompt_token_ids":(?:null|\[([\d,]*)\])')
_NO_PROMPT = b',"prompt_token_ids":null'
_COUNTS = re.compile(rb'"prompt_tokens":(\d+).*?"completion_tokens":(\d+)')

# what a request may ask for and another replica still goes on alike: these are handed on ...
KEPT = frozenset(
    {"temperature", "top_p", "top_k", "min_p", "repetition_penalty", "stop_token_ids", "ignore_eos", "skip_special_tokens"}
    | {"spaces_between_special_tokens", "logit_bias", "allowed_token_ids", "model", "user", "priority"}
)
# ... and these are in the prompt, or of the stream
SPENT = frozenset(
    {"messages", "prompt", "stream", "stream_options", "max_tokens", "max_completion_tokens", "min_tokens", "return_token_ids"}
    | {"chat_template_kwargs", "add_generation_prompt", "continue_final_message", "add_special_tokens", "metadata", "store"}
    | {"safety_identifier", "prompt_cache_key", "service_tier"}
)
# the values of others at which they ask for nothing
USUAL = {
    "top_logprobs": 0,
    "n": 1,
    "best_of": 1,
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "tool_choice": "none",
    "response_format": {"type": "text"},
}
DEFAULT_TOKENS = 16
"""Tokens of a completion that names no number (OpenAI's API)."""


class Resumption(NamedTuple):
    """How an answer goes on: a request for another replica; `body` None where only its last events are missing."""

    path: str
    body: bytes | None


def continues(path: str, fields: dict[str, Any]) -> bool:
    """Whether an answer to such a request, cut off somewhere, can be continued from its tokens: one choice, no form that its
    text must have, nothing that looks at the tokens of the answer alone."""
    if path == COMPLETIONS and not isinstance(fields.get("prompt"), (str, list)):
        return False
    if path == COMPLETIONS and isinstance(fields["prompt"], list) and not all(isinstance(each, int) for each in fields["prompt"]):
        return False
    for name, value in fields.items():
        # 0 log-probabilities are some: that of the token itself
        nothing = value is None or value is False or value in ("", [], {})
        if name in KEPT or name in SPENT or nothing or (name in USUAL and USUAL[name] == value):
            continue
        # a seed without drawing changes nothing; with it the numbers drawn so far are gone
        if name == "seed" and fields.get("temperature") == 0:
            continue
        return False
    return True


def _choices(fields: dict[str, Any]) -> int:
    """Answers that a request asks for: `n` of each prompt."""
    prompt, each = fields.get("prompt"), fields.get("n")
    prompts = len(prompt) if isinstance(prompt, list) and not all(isinstance(token, int) for token in prompt) else 1
    return prompts * (each if isinstance(each, int) and each > 1 else 1)


class Trail:
    """What has passed of one answer.

    Args:
        body: the request, as the client sent it.
        max_len: most tokens of prompt and answer together.
    """

    def __init__(self, path: str, fields: dict[str, Any], max_len: int) -> None:
        self._path, self._fields, self._max_len = path, fields, max_len
        options = fields.get("stream_options") or {}
        self._shows_ids = bool(fields.get("return_token_ids"))
        self._shows_usage = isinstance(options, dict) and bool(options.get("include_usage"))
        self.may_go_on = continues(path, fields)
        self._prompt: list[int] | None = None
        self._sent: list[int] = []
        self._visible = 0
        self._head: dict[str, Any] = {}
        self._usage: tuple[int, int] | None = None
        self._count = self._num_prompt = 0
        self._going_on = self._again = self._seen = False
        self._num_choices, self._num_finished = _choices(fields), 0
        self._rest = b""
        self.ended = self.broken = self.failed = False
        """All of it came; the replica told within it that its engine died; it told another error."""
        self.stuck, self.given = False, ""
        """A replica that was to go on with it does not; tokens that it is given, where the body does not tell them."""
        self.marks: tuple[Mark, ...] = ()
        """Where the weights changed under it."""

    @property
    def _finished(self) -> bool:
        """Whether the last token of every choice has come."""
        return self._num_finished >= self._num_choices

    def request(self) -> bytes:
        """The body for the first replica."""
        options = self._fields.get("stream_options")
        usage = {**(options if isinstance(options, dict) else {}), "include_usage": True}
        return orjson.dumps({**self._fields, "return_token_ids": True, "stream_options": usage})

    @property
    def ids(self) -> list[int] | None:
        """Tokens of the answer; None where they are not kept."""
        return self._sent if self.may_go_on else None

    @property
    def tokens(self) -> tuple[int, int]:
        """Of prompt and answer, so far."""
        told = self._usage or (0, 0)
        return max(self._num_prompt, told[0]), max(self._count, told[1])

    def see(self, chunk: bytes) -> bytes:
        """What the client sees of a chunk."""
        data = self._rest + chunk if self._rest else chunk
        if not data.endswith(b"\n\n"):
            data, end, self._rest = data.rpartition(b"\n\n")
            data += end
        else:
            self._rest = b""
        return b"".join([self._passed(event) for event in data.split(b"\n\n")[:-1]])

    def anew(self) -> None:
        """The client has nothing of the answer yet: another replica begins it."""
        self.broken, self.marks, self._rest = False, (), b""
        self._sent, self._count, self._num_prompt, self._usage = [], 0, 0, None

    def resume(self) -> Resumption | None:
        """How the answer goes on elsewhere, after what was seen; None where it cannot."""
        self.broken = False
        if self._finished:
            return Resumption(self._path, None)
        if not self._seen:
            # nobody has read a word of it: the same request, less the event that begins it
            self._again = True
            self.anew()
            return Resumption(self._path, self.request())
        if not self.may_go_on or self._prompt is None:
            return None
        # what nobody has seen yet is made anew: half of a character, or a text that was held back
        del self._sent[self._visible :]
        self._count, self._rest, self._going_on, self._again = self._visible, b"", True, False
        left = self._left()
        if left <= 0:
            return Resumption(self._path, None)
        body = {name: value for name, value in self._fields.items() if name in KEPT}
        body |= {"prompt": [*self._prompt, *self._sent], "max_tokens": left, "stream": True}
        body |= {"return_token_ids": True, "stream_options": {"include_usage": True}}
        body["min_tokens"] = max(0, int(self._fields.get("min_tokens") or 0) - self._visible)
        return Resumption(COMPLETIONS, orjson.dumps(body))

    def last(self) -> bytes:
        """The events that are missing where all tokens have come."""
        self.ended = True
        end = b"" if self._finished else self._event({"choices": [self._choice("", [], "length", None)]})
        return end + self._told_usage() + DONE

    def _passed(self, event: bytes) -> bytes:
        if self.broken:
            # vLLM ends a stream that failed as it ends any other: that end is not the answer's
            return b""
        if event == b"data: [DONE]":
            self.ended = True
            return DONE
        if not event.startswith(b"data: {"):
            return self._commented(event)
        if event.startswith(b'data: {"error"'):
            if b'"engine_restarting"' in event:
                self.broken = True
                return b""
            self.failed = True
        if self._again and not (event := self._renamed(event)):
            return b""
        return self._rewritten(event) if self._going_on else self._cut(event)

    def _commented(self, event: bytes) -> bytes:
        """What is no event: the replica's word that its weights are others from here on, or something for the client."""
        if not event.startswith(COMMENT):
            return event + b"\n\n"
        # of a continuation counting began anew
        done = self._visible if self._going_on else 0
        self.marks += tuple(
            mark._replace(before=tuple((at, count + done) for at, count in mark.before)) for mark in marks_in(event + b"\n\n")
        )
        return b""

    def _cut(self, event: bytes) -> bytes:
        """An event of the first replica, without what the client did not ask for. Runs for every token: searches of short
        literals, and no JSON."""
        if b',"prompt_token_ids":' in event:
            event = self._begun(event)
        found = _IDS.search(event)
        if found is None and b'"usage":{' in event and b'"choices":[]' in event:
            if (told := _COUNTS.search(event)) is not None:
                self._usage = int(told[1]), int(told[2])
            return event + b"\n\n" if self._shows_usage else b""
        if found is not None:
            ids = found[1].split(b",") if found[1] else ()
            self._count += len(ids)
            if self.may_go_on:
                self._sent.extend(map(int, ids))
            if not self._shows_ids:
                event = event[: found.start()] + event[found.end() :]
        self._look(event)
        return event + b"\n\n"

    def _begun(self, event: bytes) -> bytes:
        """Read the prompt's tokens, which the first event has."""
        if self._head and not self._shows_ids and _NO_PROMPT in event:
            return event.replace(_NO_PROMPT, b"", 1)
        for each in _PROMPT_IDS.findall(event):
            if each:
                self._num_prompt += each.count(b",") + 1
                if self._prompt is None and self.may_go_on:
                    self._prompt = [int(token) for token in each.split(b",")]
        if not self._head:
            read = orjson.loads(event[6:])
            self._head = {name: read.get(name) for name in ("id", "object", "created", "model")}
        return event if self._shows_ids else _PROMPT_IDS.sub(b"", event)

    def _look(self, event: bytes) -> None:
        """Whether text was seen, the answer is at its end, or is of a kind that nobody can go on with."""
        chat = self._path == CHAT
        if (b'"content":"' in event and b'"content":""' not in event) if chat else b'"text":""' not in event:
            self._visible, self._seen = len(self._sent), True
        if b'"finish_reason":"' in event:
            self._num_finished += 1
            self._seen = True
        if chat and (b'"reasoning":' in event or b'"reasoning_content":' in event or b'"tool_calls":' in event):
            self.may_go_on, self._seen = False, True
        elif chat and b'"delta":{}' in event:
            # a parser of thoughts or calls holds something back
            self.may_go_on = False

    def _renamed(self, event: bytes) -> bytes:
        """An event of a second try under the name of the first, whose beginning the client has."""
        read = orjson.loads(event[6:])
        choices = read.get("choices") or [{}]
        if (choices[0].get("delta") or {}).get("role") and self._head:
            if (ids := read.get("prompt_token_ids")) is not None:
                self._num_prompt, self._prompt = len(ids), ids if self.may_go_on else None
            return b""
        return b"data: " + orjson.dumps({**read, **self._head})

    def _rewritten(self, event: bytes) -> bytes:
        """An event of a replica that continues, in the words of the answer that it continues."""
        read = orjson.loads(event[6:])
        if "error" in read:
            return event + b"\n\n"
        if not read["choices"]:
            return self._told_usage()
        choice = read["choices"][0]
        ids, text, reason = choice.get("token_ids") or [], choice.get("text") or "", choice.get("finish_reason")
        self._sent.extend(ids)
        self._count += len(ids)
        if text:
            self._visible = len(self._sent)
        self._num_finished += reason is not None
        return self._event({"choices": [self._choice(text, ids, reason, choice.get("stop_reason"))]})

    def _choice(self, text: str, ids: list[int], reason: str | None, stop: Any) -> dict[str, Any]:
        said: dict[str, Any] = {"delta": {"content": text}} if self._path == CHAT else {"text": text}
        choice = {"index": 0, **said, "logprobs": None, "finish_reason": reason}
        if reason is not None:
            choice["stop_reason"] = stop
        return {**choice, "token_ids": ids} if self._shows_ids else choice

    def _told_usage(self) -> bytes:
        prompt, answer = self._num_prompt, self._count
        self._usage = prompt, answer
        usage = {"prompt_tokens": prompt, "total_tokens": prompt + answer, "completion_tokens": answer}
        return self._event({"choices": [], "usage": usage}) if self._shows_usage else b""

    def _event(self, fields: dict[str, Any]) -> bytes:
        return b"data: " + orjson.dumps({**self._head, **fields}) + b"\n\n"

    def _left(self) -> int:
        """Tokens that the answer may still have."""
        assert self._prompt is not None
        room = self._max_len - len(self._prompt) - self._visible if self._max_len else 2**31
        most = self._fields.get("max_completion_tokens") or self._fields.get("max_tokens")
        if most is None:
            most = DEFAULT_TOKENS if self._path == COMPLETIONS else 2**31
        return min(int(most) - self._visible, room)
