"""What one request may ask for: sizes, counts and fields, checked before vLLM sees it. Everything refused is said in words."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

from raylm.serve.config import Limits
from raylm.serve.envelope import Refusal, Refused, bad_request
from raylm.serve.tools import check_tools, check_turn, marked

CHAT = ("/v1/chat/completions", "/v1/responses", "/tokenize")
ROLES = ("system", "developer", "user", "assistant")
# fields that vLLM knows and this endpoint does not serve, or that it would pass over in silence
NOT_SERVED = {
    **dict.fromkeys(("kv_transfer_params", "ec_transfer_params", "vllm_xargs", "mm_payload", "return_mm_kwargs"), ""),
    **dict.fromkeys(("prompt_embeds", "media_io_kwargs", "mm_processor_kwargs", "documents", "suffix", "request_id"), ""),
    **dict.fromkeys(("background", "previous_response_id", "previous_input_messages"), ""),
    **dict.fromkeys(
        ("guided_json", "guided_regex", "guided_choice", "guided_grammar"), "use `response_format` or `structured_outputs`"
    ),
}
# one number more than these of a kind costs the engine time at every token
LISTS = ("stop", "stop_token_ids", "bad_words")
MOST_AT_ONCE = 1024
MAPS = ("logit_bias", "allowed_token_ids", "logprob_token_ids")
LENGTHS = ("max_tokens", "max_completion_tokens", "max_output_tokens", "min_tokens", "truncate_prompt_tokens")
LOGPROBS = ("logprobs", "top_logprobs", "prompt_logprobs")
PARTS = ("properties", "patternProperties", "$defs", "definitions", "anyOf", "oneOf", "allOf", "prefixItems")
# an optional property takes that many rows; the parser gives up in the middle of an answer at 2000
ROWS = 4
_MARK = re.compile(r"said(\d+)here")
INT32, INT64 = 2**31 - 1, 2**63


UNCOUNTED = {"regex", "grammar"}


class Structure(NamedTuple):
    """A form that the answer must have. `kind`: json, regex, grammar or choice."""

    kind: str
    spec: Any

    @property
    def has_parts(self) -> bool:
        """Whether it is built of properties and alternatives that can be counted."""
        return self.kind not in UNCOUNTED


class Reader(NamedTuple):
    """Reads requests for one model.

    Args:
        max_len: most tokens of prompt and answer together.
        vocab: number of token ids.
        render: what the chat template makes of (messages, its further arguments); None where the model does not chat.
        tools: the model's calls of tools are read.
    """

    limits: Limits
    max_len: int
    vocab: int
    render: Callable[[list[dict[str, Any]], dict[str, Any]], str] | None = None
    tools: bool = False

    def check(self, path: str, body: bytes) -> list[Structure]:
        """What the request wants compiled. Raises Refused for a body that this endpoint does not serve; what passes here may
        still be refused by vLLM."""
        if path.endswith("tokenize") and len(body) > self.limits.tokenize_bytes:
            message = f"{path} takes at most {self.limits.tokenize_bytes} bytes; send the text in parts."
            raise Refused(Refusal(413, message, "request_too_large"))
        asked = _parsed(body)
        _walk(asked, self.limits.json_depth)
        self._known_fields(asked)
        self._counts(asked)
        structures = [*_structures(asked), *(Structure("json", schema) for schema in check_tools(path, asked, self.tools))]
        for structure in structures:
            self._structure(structure)
        if path in CHAT:
            self._messages(asked, "input" if path == "/v1/responses" else "messages")
        if path == "/detokenize":
            self._token_ids(asked.get("tokens"), "tokens")
        if isinstance(asked.get("prompt"), list):
            self._prompts(asked["prompt"])
        return structures

    def _known_fields(self, asked: dict[str, Any]) -> None:
        for name, instead in NOT_SERVED.items():
            if asked.get(name) not in (None, False, [], {}, ""):
                message = f"This endpoint does not serve `{name}`" + (f"; {instead}." if instead else ".")
                raise bad_request(message, name, "unsupported_parameter")

    def _counts(self, asked: dict[str, Any]) -> None:
        limits = self.limits
        _most(asked, "n", limits.num_choices)
        _most(asked, "top_k", INT32)
        for name in LOGPROBS:
            _most(asked, name, limits.num_logprobs)
        for name in LENGTHS:
            _most(asked, name, self.max_len, "the model's length in tokens")
        for name in LISTS:
            if isinstance(asked.get(name), list) and len(asked[name]) > limits.num_stops:
                raise bad_request(f"`{name}` has {len(asked[name])} entries, at most {limits.num_stops} are taken.", name)
            value = asked.get(name)
            texts = value if isinstance(value, list) else [value]
            if any(isinstance(text, str) and len(text) > MOST_AT_ONCE for text in texts):
                raise bad_request(f"`{name}` has a text of more than {MOST_AT_ONCE} characters.", name)
        for name in MAPS:
            if isinstance(asked.get(name), (list, dict)) and len(asked[name]) > MOST_AT_ONCE:
                raise bad_request(f"`{name}` has {len(asked[name])} entries, at most {MOST_AT_ONCE} are taken.", name)
        for name in ("stop_token_ids", "allowed_token_ids", "logprob_token_ids"):
            self._token_ids(asked.get(name), name)

    def _token_ids(self, ids: Any, name: str) -> None:
        if isinstance(ids, list):
            for each in ids:
                if isinstance(each, int) and not 0 <= each < self.vocab:
                    raise bad_request(f"`{name}` has token {each}; this model's tokens are 0 to {self.vocab - 1}.", name)

    def _prompts(self, prompts: list[Any]) -> None:
        if any(isinstance(each, int) for each in prompts):
            self._token_ids(prompts, "prompt")
            return
        if len(prompts) > self.limits.num_prompts:
            raise bad_request(f"`prompt` has {len(prompts)} prompts, at most {self.limits.num_prompts} are taken.", "prompt")
        for each in prompts:
            self._token_ids(each, "prompt")

    def _structure(self, structure: Structure) -> None:
        """A schema, grammar, regular expression or list of choices: what it is compiled to grows faster than itself."""
        limits, spec = self.limits, structure.spec
        size = len(spec.encode()) if isinstance(spec, str) else len(json.dumps(spec))
        if size > limits.schema_bytes:
            raise bad_request(
                f"The schema, grammar or list of choices has {size} bytes, at most {limits.schema_bytes} are taken.",
                code="schema_too_large",
            )
        parts = _parts(spec) if structure.has_parts else 0
        if parts > limits.schema_parts:
            raise bad_request(
                f"The schema has {parts} properties and alternatives, at most {limits.schema_parts} are taken.",
                code="schema_too_large",
            )

    def _messages(self, asked: dict[str, Any], field: str) -> None:
        messages = asked.get(field)
        if (messages is None and "prompt" in asked) or (field == "input" and isinstance(messages, str)):
            return
        if not isinstance(messages, list) or not messages:
            raise bad_request(f"`{field}` must be a list of messages with at least one.", field)
        for at, message in enumerate(messages):
            where = f"{field}[{at}]"
            if not isinstance(message, dict):
                raise bad_request(f"`{where}` must be an object with `role` and `content`.", where)
            role = message.get("role")
            check_turn(message, where, self.tools)
            if role not in (*ROLES, *(("tool",) if self.tools else ())):
                raise bad_request(f"`{where}.role` is {str(role)[:40]!r}; roles are {', '.join(ROLES)}.", f"{where}.role")
            content = message.get("content")
            if not isinstance(content, str | list) and not (role == "assistant" and content is None):
                raise bad_request(f"`{where}.content` must be a text or a list of parts.", f"{where}.content")
            if isinstance(content, list) and not all(
                isinstance(part, dict) and isinstance(part.get("type"), str) for part in content
            ):
                raise bad_request(f"The parts of `{where}.content` must be objects with a `type`.", f"{where}.content")
        self._rendered(asked, messages, field)

    def _rendered(self, asked: dict[str, Any], messages: list[dict[str, Any]], field: str) -> None:
        """Raises Refused when the chat template passes over what somebody says: the answer would be to another question."""
        given = asked.get("chat_template_kwargs")
        extra = {**(given if isinstance(given, dict) else {}), **({"tools": asked["tools"]} if asked.get("tools") else {})}
        turns = [marked(message, f"said{at}here") for at, message in enumerate(messages)]
        text = self.render(turns, extra) if self.render else ""
        if not text:
            return
        heard = set(_MARK.findall(text))
        for at, turn in enumerate(turns):
            if turn["content"] and str(at) not in heard:
                said = f"The model's chat template leaves out what the {turn['role']} says in `{field}[{at}]`"
                raise bad_request(f"{said}; put it into another message.", f"{field}[{at}]", "message_left_out")


def _parsed(body: bytes) -> dict[str, Any]:
    def constant(name: str) -> NoReturn:
        raise ValueError(f"{name} is no number of JSON")

    if not body:
        raise bad_request("The body is empty; send a JSON object.", code="invalid_json")
    try:
        asked = json.loads(body.decode("utf-8"), parse_constant=constant)
    except UnicodeDecodeError as cause:
        raise bad_request(f"The body is not UTF-8 (byte {cause.start}).", code="invalid_json") from cause
    except RecursionError as cause:
        raise bad_request("The body is nested too deeply.", code="invalid_json") from cause
    except ValueError as cause:
        raise bad_request(f"The body is not JSON: {cause}", code="invalid_json") from cause
    if not isinstance(asked, dict):
        raise bad_request("The body must be a JSON object.", code="invalid_json")
    return asked


def _walk(asked: dict[str, Any], most: int) -> None:
    """Nesting, and what JSON can say but no machine number and no tokenizer can hold."""
    level: list[Any] = [asked]
    for _ in range(most):
        below: list[Any] = []
        for node in level:
            if isinstance(node, dict):
                for name in node:
                    _check_text(name)
            for child in node.values() if isinstance(node, dict) else node:
                if isinstance(child, (dict, list)):
                    below.append(child)
                elif isinstance(child, str):
                    _check_text(child)
                elif isinstance(child, (int, float)) and not (-INT64 <= child < INT64 and math.isfinite(child)):
                    raise bad_request(f"The number {str(child)[:40]} is out of range.", code="number_out_of_range")
        level = below
        if not level:
            return
    raise bad_request(f"The body is nested more than {most} levels deep.", code="nested_too_deeply")


def _check_text(text: str) -> None:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as cause:
            raise bad_request("A text holds half of a surrogate pair, which is no character.", code="invalid_text") from cause


def _most(asked: dict[str, Any], name: str, most: int, what: str = "the most that this endpoint takes") -> None:
    value = asked.get(name)
    if isinstance(value, (int, float)) and value > most:
        raise bad_request(f"`{name}` is {value}, more than {most}, {what}.", name)


def _structures(asked: dict[str, Any]) -> list[Structure]:
    """All that a request asks to be compiled."""
    named = asked.get("structured_outputs")
    if named is not None and not isinstance(named, dict):
        raise bad_request("`structured_outputs` must be an object.", "structured_outputs")
    kinds = named or {}
    if kinds.get("structural_tag") is not None:
        raise bad_request("This endpoint does not serve `structural_tag`.", "structured_outputs", "unsupported_parameter")
    found = [Structure(kind, kinds[kind]) for kind in ("json", "regex", "grammar", "choice") if kinds.get(kind) is not None]
    text = asked.get("text")
    for format in (asked.get("response_format"), text.get("format") if isinstance(text, dict) else None):
        inner = format.get("json_schema", format) if isinstance(format, dict) else None
        schema = inner.get("schema") if isinstance(inner, dict) else None
        if schema is not None:
            found.append(Structure("json", schema))
    return found


def _parts(spec: Any) -> int:
    """Properties and alternatives in a schema, each of which is some rows of the parser's table; a plain choice is one."""
    if isinstance(spec, str):
        try:
            spec = json.loads(spec)
        except (ValueError, RecursionError):
            return 0
    if isinstance(spec, list):
        return len(spec) // ROWS
    parts, nodes = 0, [spec]
    while nodes:
        node = nodes.pop()
        if isinstance(node, dict):
            parts += sum(len(node[name]) for name in PARTS if isinstance(node.get(name), (dict, list)))
            nodes += [child for name, child in node.items() if name not in ("enum", "const", "examples")]
        elif isinstance(node, list):
            nodes += node
    return parts
