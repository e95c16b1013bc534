"""Streams of /v1/messages and /v1/responses in vLLM's words, with their tokens told in comments as a replica's door does."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from raylm.serve.engine.resume import comment_of

MESSAGES, RESPONSES = "/v1/messages", "/v1/responses"


def text_of(ids: Sequence[int]) -> str:
    """What tokens say."""
    return "".join(f" {token}" for token in ids)


def events_of(path: str, name: str, model: str, num_prompt: int, ids: Sequence[int]) -> list[bytes]:
    """A whole answer of these tokens, as a door sends it: one piece for each event.

    Args:
        name: of the replica; names of the answer and of its parts begin with it.
    """
    return (_message if path == MESSAGES else _response)(name, model, num_prompt, ids)


def _event(name: str, **fields: Any) -> bytes:
    return f"event: {name}\ndata: {json.dumps({'type': name, **fields}, separators=(',', ':'))}\n\n".encode()


def _message(name: str, model: str, num_prompt: int, ids: Sequence[int]) -> list[bytes]:
    usage = {"input_tokens": num_prompt, "output_tokens": 0}
    begun = {"id": f"msg_{name}", "type": "message", "role": "assistant", "content": [], "model": model, "stop_reason": None}
    deltas = [
        comment_of([token])
        + _event("content_block_delta", index=0, delta={"type": "text_delta", "text": text_of([token])})
        for token in ids
    ]  # fmt: skip
    return [
        _event("message_start", message={**begun, "stop_sequence": None, "usage": usage}),
        _event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
        *deltas,
        _event("content_block_stop", index=0),
        _event(
            "message_delta",
            delta={"stop_reason": "max_tokens", "stop_sequence": None},
            usage={**usage, "output_tokens": len(ids)},
        ),
        _event("message_stop"),
    ]


def _response(name: str, model: str, num_prompt: int, ids: Sequence[int]) -> list[bytes]:
    part = {"type": "output_text", "text": text_of(ids), "annotations": [], "logprobs": None}
    item = {"id": f"item_{name}", "type": "message", "role": "assistant", "status": "completed", "content": [part]}
    usage: dict[str, Any] = {"input_tokens": num_prompt, "output_tokens": len(ids), "total_tokens": num_prompt + len(ids)}
    usage |= {"input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0}}
    whole: dict[str, Any] = {"id": f"resp_{name}", "object": "response", "created_at": len(name), "model": model, "output": []}
    whole |= {"status": "in_progress", "parallel_tool_calls": True, "tool_choice": "auto", "tools": [], "usage": None}
    at: dict[str, Any] = {"item_id": item["id"], "output_index": 0, "content_index": 0}
    empty = {**part, "text": ""}
    told: list[tuple[bytes, str, dict[str, Any]]] = [
        (b"", "response.created", {"response": whole}),
        (b"", "response.in_progress", {"response": whole}),
        (b"", "response.output_item.added", {"output_index": 0, "item": {**item, "status": "in_progress", "content": []}}),
        (b"", "response.content_part.added", {**at, "part": empty}),
        *((comment_of([each]), "response.output_text.delta", {**at, "delta": text_of([each]), "logprobs": []}) for each in ids),
        (b"", "response.output_text.done", {**at, "text": part["text"], "logprobs": []}),
        (b"", "response.content_part.done", {**at, "part": part}),
        (b"", "response.output_item.done", {"output_index": 0, "item": item}),
        (b"", "response.completed", {"response": {**whole, "status": "completed", "output": [item], "usage": usage}}),
    ]
    return [before + _event(kind, sequence_number=number, **fields) for number, (before, kind, fields) in enumerate(told)]
