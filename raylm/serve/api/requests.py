"""What one request may ask for: sizes, counts and fields, checked before vLLM sees it. Everything refused is said in words."""

from __future__ import annotations

from typing import Any, NamedTuple

from raylm.serve.api import anthropic_shape, dialogue, pooling_shape, responses_shape, tools
from raylm.serve.api.dialogue import Render, Turn
from raylm.serve.api.json_body import parsed
from raylm.serve.api.structures import Structure, check_size, structures
from raylm.serve.api.tasks import ROUTES, TEXT
from raylm.serve.config import Limits
from raylm.serve.envelope import Refusal, Refused, bad_request

CHAT = ("/v1/chat/completions", "/tokenize", *pooling_shape.PATHS)
# fields that vLLM knows and this endpoint does not serve, or that it would pass over in silence
NOT_SERVED = {
    **dict.fromkeys(("kv_transfer_params", "ec_transfer_params", "vllm_xargs", "mm_payload", "return_mm_kwargs"), ""),
    **dict.fromkeys(("prompt_embeds", "media_io_kwargs", "mm_processor_kwargs", "documents", "suffix", "request_id"), ""),
    # engines put the probes of new weights first; nobody else comes before others
    "priority": "requests are answered in the order in which they come",
    **dict.fromkeys(("background", "previous_response_id", "previous_input_messages"), ""),
    **dict.fromkeys(
        ("guided_json", "guided_regex", "guided_choice", "guided_grammar"), "use `response_format` or `structured_outputs`"
    ),
}
# one number more than these of a kind costs the engine time at every token
LISTS = ("stop", "stop_sequences", "stop_token_ids", "bad_words")
# no context length bounds what these read
UNBOUNDED = ("/tokenize", "/detokenize", anthropic_shape.COUNT)
MOST_AT_ONCE = 1024
MAPS = ("logit_bias", "allowed_token_ids", "logprob_token_ids")
LENGTHS = ("max_tokens", "max_completion_tokens", "max_output_tokens", "min_tokens", "truncate_prompt_tokens")
LOGPROBS = ("logprobs", "top_logprobs", "prompt_logprobs")
INT32 = 2**31 - 1


class Reader(NamedTuple):
    """Reads requests for one model.

    Args:
        max_len: most tokens of prompt and answer together.
        vocab: number of token ids.
        render: what the chat template makes of (messages, its further arguments); None where the model does not chat.
        tools: the model's calls of tools are read.
        reasons: the model's thoughts are read.
        task: what the model is served for.
    """

    limits: Limits
    max_len: int
    vocab: int
    render: Render | None = None
    tools: bool = False
    reasons: bool = False
    task: str = TEXT

    def check(self, path: str, body: bytes) -> list[Structure]:
        """What the request wants compiled. Raises Refused for a body that this endpoint does not serve; what passes here may
        still be refused by vLLM."""
        if path not in ROUTES[self.task]:
            served = ", ".join(ROUTES[self.task])
            raise Refused(Refusal(404, f"This model does not serve {path}; it serves {served}.", "route_not_served", "model"))
        if path in UNBOUNDED and len(body) > self.limits.tokenize_bytes:
            message = f"{path} takes at most {self.limits.tokenize_bytes} bytes; send the text in parts."
            raise Refused(Refusal(413, message, "request_too_large"))
        asked = parsed(body, self.limits.json_depth)
        self._known_fields(path, asked)
        self._counts(asked)
        compiled = self._sized(structures(asked))
        offered, turns = self._said(path, asked)
        compiled += self._sized([Structure("json", schema) for schema in tools.check_tools(path, offered, self.tools)])
        dialogue.check_heard(turns, asked, _chat_tools(path, asked), self.render)
        if path == "/detokenize":
            self._token_ids(asked.get("tokens"), "tokens")
        if isinstance(asked.get("prompt"), list):
            self._prompts(asked["prompt"])
        return compiled

    def _sized(self, compiled: list[Structure]) -> list[Structure]:
        for structure in compiled:
            check_size(structure, self.limits.schema_bytes, self.limits.schema_parts)
        return compiled

    def _said(self, path: str, asked: dict[str, Any]) -> tuple[tools.Offer, list[Turn]]:
        """Tools and turns of a request, whatever its shape."""
        if path == responses_shape.PATH:
            responses_shape.check_fields(asked)
            return responses_shape.offer(asked), responses_shape.turns(asked, self.tools)
        if path in (anthropic_shape.PATH, anthropic_shape.COUNT):
            anthropic_shape.check_fields(asked, path, self.reasons)
            return anthropic_shape.offer(asked), anthropic_shape.turns(asked, self.tools)
        if path in pooling_shape.PATHS:
            for each in pooling_shape.texts(path, asked, self.limits.num_inputs):
                self._token_ids(each, "input")
            said = asked.get("messages") is not None
            return tools.offer(asked), dialogue.of_chat(asked, self.tools) if said else []
        return tools.offer(asked), dialogue.of_chat(asked, self.tools) if path in CHAT else []

    def _known_fields(self, path: str, asked: dict[str, Any]) -> None:
        for name, instead in NOT_SERVED.items():
            own = name in responses_shape.NOT_SERVED and path == responses_shape.PATH
            own |= name == "documents" and path in pooling_shape.PATHS
            if not own and asked.get(name) not in (None, False, [], {}, ""):
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


def _chat_tools(path: str, asked: dict[str, Any]) -> Any:
    """Tools as the chat template is handed them; they have been read before."""
    if path == responses_shape.PATH:
        return responses_shape.chat_tools(asked)
    return anthropic_shape.chat_tools(asked) if path.startswith(anthropic_shape.PATH) else asked.get("tools")


def _most(asked: dict[str, Any], name: str, most: int, what: str = "the most that this endpoint takes") -> None:
    value = asked.get(name)
    if isinstance(value, (int, float)) and value > most:
        raise bad_request(f"`{name}` is {value}, more than {most}, {what}.", name)
