"""Records of the RL loop: prompt, rollout, sample.

Tokens travel as the generator drew them; text is never tokenized again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch


class Prompt(NamedTuple):
    """One question. Example: Prompt(3, [1, 40, 7], '[{"role": "user", ...}]', "class")."""

    row: int
    tokens: list[int]
    messages: str
    ground_truth: str | None


class Score(NamedTuple):
    """What a reward says of one completion, and why."""

    value: float
    reason: str


class Unscored(NamedTuple):
    """Why a completion has no score. Example: Unscored("raised", "a reward raised ApiError: rate limit reached")."""

    kind: str
    why: str


class Rollout(NamedTuple):
    """One completion of a prompt, and its score; None when it has none, for the reason in `unscored`."""

    prompt: Prompt
    tokens: list[int]
    logprobs: list[float]
    text: str
    finished: bool
    score: Score | None
    unscored: Unscored | None = None


class Sample(NamedTuple):
    """What the trainer gets: tokens of prompt and completion, the generator's log-probabilities, one advantage."""

    tokens: list[int]
    num_prompt: int
    logprobs: list[float]
    advantage: float


class Loss(NamedTuple):
    """Sums over completion tokens, never means: the trainer divides by the global number of tokens."""

    total: torch.Tensor
    metrics: dict[str, torch.Tensor]
