"""What a served model is asked for, `task` in the job: the routes it answers and what its engine is told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from raylm.core.errors import ConfigError
from raylm.serve.served_model import VARIANTS, LoraSettings

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
FITS = {
    # "" is of weights that say nothing
    task: variants if task == SCORES else (*variants, "")
    for task, variants in VARIANTS.items()
}
"""Variants of checkpoints (`raylm.core.variants`) that can be asked for it."""


def check_fits(task: str, variant: str, where: str) -> None:
    """Raises ConfigError for a checkpoint that cannot be served for a task: a reward model draws no tokens, a language model
    gives no scores."""
    if variant not in FITS[task]:
        others = [other for other, variants in FITS.items() if variant in variants]
        raise ConfigError(
            f"task = {task!r} is not for a {variant or 'language'} model",
            where=where,
            next=f"task = {others[0]!r}" if others else "serve another checkpoint",
        )


def engine_options(task: str, lora: LoraSettings | None = None, modules: Sequence[str] = ()) -> dict[str, Any]:
    """Arguments of vLLM's engine that a task, and adapters beside the model, need.

    Args:
        modules: names of the layers that adapters may stand beside, see `raylm.serve.engine.adapter_check.modules_of`.
    """
    if lora is not None:
        # as many in a batch as there are at all: none is thrown out and read again
        room = {"max_loras": lora.most, "max_cpu_loras": lora.most, "max_lora_rank": lora.max_rank}
        return {"enable_lora": True, "lora_target_modules": list(modules) or None, **room}
    if task == VECTORS:
        # the last token's state of a decoder, what the checkpoint says of an encoder; of length 1
        return {"runner": "pooling", "convert": "embed"}
    if task == SCORES:
        # the number that the reward model was trained to give, and no probability of it
        return {"runner": "pooling", "convert": "classify", "pooler_config": {"use_activation": False}}
    return {}
