"""Records of the RL loop: prompt, rollout, experience, inputs of a loss.

Tokens travel as the generator drew them; text is never tokenized again. Shapes: B completions, T tokens of prompt and completion.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from raylm.core.errors import StageError

if TYPE_CHECKING:
    import torch

    from raylm.data.batch import Taught
    from raylm.model.scores import Scores


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
    """One scored completion, as an algorithm and the trainer see it."""

    row: int
    """Of its prompt: samples with the same one are a group."""
    tokens: list[int]
    """Of prompt and completion."""
    num_prompt: int
    logprobs: list[float]
    """The generator's, one per token of the completion."""
    reward: float
    advantages: list[float] = []
    """One per token of the completion, once the algorithm has set them."""


class Experience(NamedTuple):
    """What one iteration learns from."""

    samples: list[Sample]
    rows: list[int]
    """Of all prompts that were asked."""
    position: int
    """Place of these prompts in their order."""


class LossInputs(NamedTuple):
    """What an algorithm's loss is computed from; position t holds what belongs to token t + 1."""

    logprob_BT: torch.Tensor
    """The trainer's, with gradient."""
    old_BT: torch.Tensor
    """The generator's."""
    reference_BT: torch.Tensor | None
    """The frozen start's, where the algorithm needs them."""
    advantage_BT: torch.Tensor
    mask_BT: torch.Tensor
    """1 on tokens of completions."""
    taught: Taught | None = None
    """What a teacher says of them, where the algorithm needs one."""
    scores: Scores | None = None
    """All that the trainer's head answered, with gradient: of the teacher's tokens too."""


def check_advantages(samples: list[Sample]) -> None:
    """Raises StageError where an algorithm left another number of advantages than a completion has tokens."""
    for sample in samples:
        found = len(sample.advantages) if hasattr(sample.advantages, "__len__") else sample.advantages
        if found != len(sample.logprobs):
            raise StageError(
                f"a completion has {len(sample.logprobs)} tokens, its advantages are {found}",
                where=f"algorithm.advantages, prompt {sample.row}",
                next="return each sample with a list of one advantage per token of its completion",
            )


def experience_of(rollouts: list[Rollout], rows: list[int], position: int) -> Experience:
    """One sample of each completion that has a score, without advantages."""
    samples = [
        Sample(one.prompt.row, [*one.prompt.tokens, *one.tokens], len(one.prompt.tokens), one.logprobs, one.score.value)
        for one in rollouts
        if one.score is not None
    ]
    return Experience(samples, rows, position)
