"""What is asked of generators, and what they answer."""

from __future__ import annotations

from typing import Any, NamedTuple

from pydantic import Field, model_validator

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

    def params(self) -> dict[str, Any]:
        """Arguments of vLLM's SamplingParams, less seed and end tokens."""
        return {"max_tokens": self.max_tokens, "temperature": self.temperature, "top_p": self.top_p}


class Structure(Config):
    """A form that a completion must have; one of the three."""

    json_schema: dict[str, Any] | None = None
    """A JSON schema; the JSON is written without white space between tokens."""
    regex: str | None = None
    """A regular expression that the whole completion matches."""
    choice: list[str] | None = Field(default=None, min_length=2)
    """Texts of which it is one."""

    @model_validator(mode="after")
    def _one(self) -> Structure:
        if sum(value is not None for value in (self.json_schema, self.regex, self.choice)) != 1:
            raise ValueError("structure asks for one of json_schema, regex and choice")
        return self

    def params(self) -> dict[str, Any]:
        """Arguments of vLLM's StructuredOutputsParams."""
        found = {"json": self.json_schema, "regex": self.regex, "choice": self.choice}
        return {name: value for name, value in found.items() if value is not None}


class BatchSampling(Sampling):
    """How completions are sampled where nobody trains on their log-probabilities."""

    max_tokens: int = Field(default=256, ge=1)
    temperature: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    top_p: float = Field(default=1.0, gt=0, le=1)
    n: int = Field(default=1, ge=1)
    seed: int = Field(default=0, ge=0)
    """With each row's id it makes the seeds of that row."""
    top_k: int = Field(default=0, ge=0)
    """Sample from this many likeliest tokens; 0 samples from all."""
    min_p: float = Field(default=0.0, ge=0, le=1)
    """Leave out tokens that are less likely than this part of the likeliest one."""
    repetition_penalty: float = Field(default=1.0, gt=0, le=2)
    """Above 1 tokens that stood in the prompt or the completion become less likely."""
    stop: list[str] = []
    """End before these texts."""
    structure: Structure | None = None
    """A form that completions must have."""

    @model_validator(mode="after")
    def _greedy_once(self) -> BatchSampling:
        if self.temperature == 0 and self.n > 1:
            raise ValueError(f"temperature = 0 draws the same completion n = {self.n} times: raise the temperature, or say n = 1")
        return self

    @property
    def reads_text(self) -> bool:
        """Whether the engine must know the tokenizer."""
        return bool(self.stop or self.structure)

    def params(self) -> dict[str, Any]:
        found: dict[str, Any] = super().params() | {"top_k": self.top_k, "min_p": self.min_p}
        found |= {"repetition_penalty": self.repetition_penalty}
        if self.stop:
            found |= {"stop": self.stop, "detokenize": True}
        if self.structure:
            found |= {"structured_outputs": self.structure.params()}
        return found


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
