"""What a consumer is: a program of other people that reads exported files, and what it says of prompts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from raylm.core.config import Config

if TYPE_CHECKING:
    import numpy as np

Prompt = str | list[dict[str, str]]
"""Plain text, or the messages of a conversation that the model is to answer."""


UNTOLD = -1
"""Number of prompt tokens of an answer that the program made and cannot tell: its interface has no words for half a character."""

SMALL_BYTES = 256_000_000


class Logprobs(NamedTuple):
    """Log-probabilities, in nats, of the likeliest tokens at each of T positions; of the whole vocabulary where K is its size."""

    ids: np.ndarray
    """int32[T, K]; -1 where there are fewer."""
    values: np.ndarray
    """float32[T, K]."""


class Ran(NamedTuple):
    """One prompt, answered greedily."""

    prompt_ids: list[int] | None
    """Tokens that the program made of the prompt; None where it does not tell them."""
    num_prompt_tokens: int
    tokens: list[int] | None
    """The answer, without a token that ended it; None where the program tells text alone."""
    text: str
    logprobs: Logprobs | None = None
    """Of the answer's positions, one more than `tokens` where the end was a position of its own."""


class Consumer(Config):
    """One program. Its card is empty but for the kind: all are asked the same."""

    reads: ClassVar[tuple[str, ...]]
    """Kinds of formats (`gguf`, `onnx`) that it reads."""
    deadline_s: ClassVar[float] = 900.0
    """For all prompts, loading included."""

    kind: str

    def installed(self) -> str:
        """ "" where it can be run on this machine, else why not."""
        raise NotImplementedError

    def refuses(self, folder: Path) -> str:
        """Why the program reads no such files as lie in `folder`, "" where it does."""
        return ""

    def version(self) -> str:
        """What is installed."""
        raise NotImplementedError

    def run(self, folder: Path, prompts: list[Prompt], max_tokens: int) -> list[Ran]:
        """Load the exported `folder` and answer each prompt greedily, in this process; it may die of it."""
        raise NotImplementedError


def threads_for(weights: Path) -> int:
    """Threads that a model of this size is worth: those that wait for each other cost a small one more than they bring."""
    files = [weights] if weights.is_file() else [*weights.glob("*.safetensors")]
    return 1 if sum(file.stat().st_size for file in files) < SMALL_BYTES else os.cpu_count() or 1


def package_version(name: str) -> str:
    """Version of an installed Python package, "" where there is none."""
    from importlib import metadata

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def top(logits: Any, count: int) -> Logprobs:
    """Log-probabilities of the `count` likeliest tokens of logits [T, V] (an array)."""
    import numpy as np

    logits = np.asarray(logits, np.float64)
    largest = logits.max(-1, keepdims=True)
    nats = logits - largest - np.log(np.exp(logits - largest).sum(-1, keepdims=True))
    count = min(count, logits.shape[-1])
    ids = np.argsort(-nats, -1, kind="stable")[:, :count]
    return Logprobs(ids.astype(np.int32), np.take_along_axis(nats, ids, -1).astype(np.float32))
