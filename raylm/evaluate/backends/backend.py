"""What may stand behind an LM: something that scores given tokens, and something that answers prompts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

from raylm.inference.completions import Sampling

Prompt = str | Sequence[int] | Sequence[dict[str, Any]]
"""A text, token ids, or chat messages."""


class Answer(NamedTuple):
    """One answer to a prompt."""

    text: str
    """Without special tokens, and without the stop text that ended it."""
    tokens: list[int] = []
    """Ids of what was drawn; empty where an endpoint does not tell them."""
    finish: str = "stop"
    """`stop` (end token or stop text) or `length`."""
    seconds: float = 0.0
    """From request to answer, the wait for other requests included."""
    num_tokens: int = 0
    """Tokens that were drawn."""


class Score(NamedTuple):
    """What a model says of the counted tokens of one row."""

    nats: float
    """Sum of their log-probabilities; NaN where the model gives no number."""
    greedy: bool
    """Each of them is the likeliest one at its place; False where that was not asked."""
    seconds: float


class Scorer(Protocol):
    """Gives log-probabilities of tokens."""

    tokenizer: Any

    def positions(self) -> int | None:
        """Most tokens of a row; None for any number."""
        ...

    def vocabulary(self) -> int | None:
        """Token ids that it knows; None where that is not known."""
        ...

    def scores(self, rows: Sequence[Any], masks: Sequence[Any], greedy: bool) -> Iterator[tuple[int, Score | str]]:
        """Place and score of each row as they come, in any order; a reason in words for one that has no score."""
        ...


class Answerer(Protocol):
    """Answers prompts."""

    reads_tokens: bool
    """Prompts are token ids; else texts and messages."""
    room: int | None
    """Most tokens of prompt and answer together; None for any number."""

    def complete(
        self, prompts: Sequence[Any], sampling: Sampling, seeds: Sequence[int]
    ) -> Iterator[tuple[int, list[Answer] | str]]:
        """Place and `sampling.n` answers of each prompt as they come, in any order; a reason in words for one without."""
        ...
