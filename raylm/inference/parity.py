"""Compares what vLLM says of tokens with what the trained model said of them: the serving side of the merge-and-serve gate."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from raylm.core.errors import StageError
from raylm.core.workers import Workers
from raylm.inference.config import GeneratorSpec
from raylm.inference.pool import hold_pool
from raylm.model.limits import config_of, positions


class Sample(NamedTuple):
    """One sequence, and log-probabilities of some of its tokens by their place."""

    tokens: list[int]
    logprobs: Mapping[int, float]


def compare_engine(
    workers: Workers, spec: GeneratorSpec, uri: str, samples: Sequence[Any], dtype: str, allowed: Callable[[str], float]
) -> dict[str, Any]:
    """Ask an engine that holds the checkpoint at `uri` for the log-probabilities of the samples; facts of what was found.

    Args:
        samples: what `Sample` has.
        dtype: what the engine is to compute in.
        allowed: largest mean absolute difference, by the dtype that the engine computes in.

    Raises:
        StageError: they differ by more; says on which sample most.
    """
    pool = hold_pool(workers, spec)
    room = min(max(len(sample.tokens) for sample in samples) + 1, positions(config_of(uri)) or 1 << 30)
    pool.start(uri, max_len=room, dtype=dtype)
    theirs = pool.logprobs([sample.tokens[: room - 1] for sample in samples])
    apart = [
        [abs(logprobs[place - 1] - said) for place, said in sample.logprobs.items() if place <= len(logprobs)]
        for sample, logprobs in zip(samples, theirs, strict=True)
    ]
    count = sum(map(len, apart))
    nats, limit = sum(map(sum, apart)) / max(count, 1), allowed(pool.dtype.name)
    if not nats <= limit:
        means = [sum(each) / len(each) if each else 0.0 for each in apart]
        most = max(range(len(means)), key=lambda at: means[at] if means[at] == means[at] else float("inf"))
        raise StageError(
            f"vLLM does not say what the trained model says: log-probabilities of {count:,} tokens in {len(samples)} sequences "
            f"differ by {nats:.3g} on average, allowed are {limit:g} (vLLM computes in {pool.dtype.name}); most, by "
            f"{means[most]:.3g}, in sequence {most}, which begins with tokens {samples[most].tokens[:8]}",
            where=uri,
            next="transformers reads these weights as they were trained, vLLM treats this network otherwise: take another "
            "version of vLLM, or allow more with check_export = {max_nats = ...}",
        )
    return {"vllm_tokens": count, "vllm_nats": nats, "vllm_dtype": pool.dtype.name}
