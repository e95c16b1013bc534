"""What a served model is asked for, `task` in the job: the routes it answers and what its engine is told."""

from __future__ import annotations

from typing import Any

TEXT, VECTORS, SCORES = "generate", "embed", "score"
_TOKENS = ("/tokenize", "/detokenize")
ROUTES: dict[str, tuple[str, ...]] = {
    TEXT: (
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/responses",
        "/v1/messages",
        "/v1/messages/count_tokens",
        *_TOKENS,
    ),
    # scores of pairs are cosines of their vectors
    VECTORS: ("/v1/embeddings", "/v1/score", "/v1/rerank", *_TOKENS),
    # /pooling gives what the head says; vLLM's other routes would make a probability of it, or read a pair as one text
    SCORES: ("/pooling", *_TOKENS),
}
"""Paths that take a body, for each task."""


def engine_options(task: str) -> dict[str, Any]:
    """Arguments of vLLM's engine that a task needs."""
    if task == VECTORS:
        # the last token's state of a decoder, what the checkpoint says of an encoder; of length 1
        return {"runner": "pooling", "convert": "embed"}
    if task == SCORES:
        # the number that the reward model was trained to give, and no probability of it
        return {"runner": "pooling", "convert": "classify", "pooler_config": {"use_activation": False}}
    return {}
