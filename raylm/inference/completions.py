"""What is asked of generators, and what they answer."""

from __future__ import annotations

from typing import NamedTuple

from raylm.core.config import Config


class Sampling(Config):
    """How completions are sampled."""

    max_tokens: int = 64
    """Most tokens of one completion."""
    temperature: float = 1.0
    """Divides the logits; 0 takes the likeliest token (greedy)."""
    top_p: float = 1.0
    """Sample from the smallest set of tokens that has this probability; 1 samples from all."""
    n: int = 1
    """Completions per prompt."""
    seed: int = 0
    """Seed when no seeds are given per prompt."""
    stop_at_eos: bool = True
    """End at the checkpoint's end token, which is kept as the last token; false always samples max_tokens."""


class Quarantined(NamedTuple):
    """What stands for the completions of a prompt that ended its generators, see `GeneratorSpec.quarantine_after`."""

    deaths: int
    """Generators that ended while they worked on it, the last one on it alone."""
    why: str
    """How the last one ended."""


class VersionSpan(NamedTuple):
    """Tokens [start, end) of a completion were sampled by the weights of `version`."""

    version: int
    start: int
    end: int


class Completion(NamedTuple):
    """One sampled continuation.

    `logprobs[i]` is the log-probability of `tokens[i]` under the distribution it was sampled from: logits divided by the
    temperature, cut by top_p, normalised (vLLM's "processed" log-probabilities). That is what importance ratios need.
    At temperature 0 it is the one of the plain softmax. `finish_reason` is "stop" (end token) or "length".
    `versions` tells which weights sampled which tokens; the first and the last one are its lowest and highest version.
    """

    tokens: list[int]
    logprobs: list[float]
    text: str
    finish_reason: str
    versions: tuple[VersionSpan, ...] = ()
