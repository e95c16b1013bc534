"""Records of the RL loop, in the order in which they come to be.

Prompt --(generator, environment)--> Trajectory --(rewards)--> Rollout --> Sample --(trainer, algorithm)--> LossInputs

Tokens travel as the generator drew them; text is never tokenized again. Shapes: B completions, T tokens of prompt and completion,
N tokens after the prompt.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from raylm.core.errors import StageError
from raylm.inference.completions import Completion, VersionSpan

if TYPE_CHECKING:
    import torch

    from raylm.data.batch import Taught
    from raylm.model.scores import Scores

Floats = Sequence[float] | Any
"""Numbers, one per token after the prompt: a list, or a one-dimensional numpy array."""


class Prompt(NamedTuple):
    """One question. Example: Prompt(3, [1, 40, 7], '[{"role": "user", ...}]', "class")."""

    row: int
    tokens: list[int]
    messages: str
    ground_truth: str | None
    columns: dict[str, Any] | None = None
    """What else its row says, for rewards and environments."""
    source: str = ""
    """Where it comes from, for means per source."""


class Trajectory(NamedTuple):
    """All that came after a prompt: one completion, or several with what an environment answered between them."""

    tokens: list[int]
    logprobs: list[float]
    """The generator's; 0 where the environment spoke."""
    text: str
    finish_reason: str
    """"stop" (the model ended it, or the environment did), "length" (cut at a limit of tokens or turns), or why else it ended."""
    versions: tuple[VersionSpan, ...] = ()
    """Which weights drew which of `tokens`."""
    mask: list[int] | None = None
    """1 on tokens that the generator drew, 0 on those of the environment; None: all were drawn."""
    messages: str = ""
    """The turns after the prompt as JSON, where there are several."""
    num_turns: int = 1
    reward: float | None = None
    """The environment's own."""
    metrics: dict[str, float] | None = None
    """Numbers that the environment counts: calls of tools, errors."""

    @classmethod
    def of(cls, completion: Completion) -> Trajectory:
        """One completion as it is."""
        return cls(completion.tokens, completion.logprobs, completion.text, completion.finish_reason, completion.versions)

    @property
    def finished(self) -> bool:
        """Whether it came to its end."""
        return self.finish_reason == "stop"


class Score(NamedTuple):
    """What a reward says of one completion, and why."""

    value: float
    reason: str


class Unscored(NamedTuple):
    """Why a completion has no score. Example: Unscored("raised", "a reward raised ApiError: rate limit reached")."""

    kind: str
    why: str


class Rollout(NamedTuple):
    """A trajectory and its score; None when it has none, for the reason in `unscored`."""

    prompt: Prompt
    trajectory: Trajectory
    score: Score | None
    """The weighed sum of its parts."""
    unscored: Unscored | None = None
    parts: dict[str, Score] | None = None
    """What each reward said, by its name, before it was weighed."""
    token_rewards: Floats | None = None
    """Further rewards at single tokens, where a process reward gives some."""

    @property
    def earned(self) -> float | None:
        """All that it earned, at single tokens too; None without a score."""
        if self.score is None:
            return None
        return self.score.value if self.token_rewards is None else self.score.value + float(sum(self.token_rewards))


class Sample(NamedTuple):
    """One scored trajectory, as an algorithm and the trainer see it. All fields per token have length N."""

    row: int
    """Of its prompt: samples with the same one are a group."""
    tokens: Sequence[int] | Any
    """Of prompt and trajectory: a list; a one-dimensional numpy array where it has been to the ranks."""
    num_prompt: int
    logprobs: Floats
    """The generator's."""
    reward: float
    advantages: Floats = ()
    """Once the algorithm has set them."""
    mask: Floats | None = None
    """1 on tokens that are learned from; None: all."""
    weight: float = 1.0
    """Of each of its tokens in the loss: the algorithm's way to aggregate."""
    token_rewards: Floats | None = None
    """Rewards at single tokens beside `reward`, which belongs to the last one."""
    trainer_logprobs: Floats | None = None
    """The trainer's, before the first update of the iteration."""
    reference_logprobs: Floats | None = None
    values: Floats | None = None
    """The critic's, of the state before each token."""
    returns: Floats | None = None
    """What the critic is to learn."""
    versions: tuple[VersionSpan, ...] = ()
    finished: bool = True
    parts: dict[str, float] | None = None
    place: int = 0
    """Among the trajectories of its group."""

    @property
    def mask_or_ones(self) -> Floats:
        """`mask`, written out."""
        return [1.0] * len(self.logprobs) if self.mask is None else self.mask

    @property
    def num_learned(self) -> float:
        """Tokens that are learned from."""
        mask: Any = self.mask
        if mask is None:
            return float(len(self.logprobs))
        return float(sum(mask) if isinstance(mask, list) else mask.sum())


class Experience(NamedTuple):
    """What one iteration learns from."""

    samples: list[Sample]
    rows: list[int]
    """Of all prompts that were asked."""
    position: int
    """Place of these prompts in their order, of the first one where they have several."""
    state: dict[str, float] | None = None
    """What the algorithm keeps from iteration to iteration; saved with the trainer. What `advantages` leaves here comes back."""
    metrics: dict[str, float] | None = None
    """What `advantages` has to report."""
    positions: list[int] | None = None
    """Of each of `rows`; None: all are at `position`."""

    @property
    def at_positions(self) -> dict[int, list[int]]:
        """Rows by their position."""
        found: dict[int, list[int]] = {}
        for position, row in zip(self.positions or [self.position] * len(self.rows), self.rows, strict=True):
            found.setdefault(position, []).append(row)
        return found or {self.position: []}


PER_TOKEN = ("logprobs", "advantages", "mask", "token_rewards", "trainer_logprobs", "reference_logprobs", "values", "returns")


def packed(experience: Experience) -> Experience:
    """The same with numpy arrays (int32, float64) for lists per token: pickled at once, and not number by number."""
    return experience._replace(samples=[_packed(sample) for sample in experience.samples])


def _packed(sample: Sample) -> Sample:
    columns = {name: _array(value, "d") for name in PER_TOKEN if isinstance(value := getattr(sample, name), list)}
    if isinstance(sample.tokens, list):
        columns["tokens"] = _array(sample.tokens, "i")
    return sample._replace(**columns) if columns else sample


def _array(values: list[Any], code: str) -> Any:
    import numpy as np

    # numpy looks at each number twice
    return np.frombuffer(array(code, values), np.dtype(code)) if values else np.zeros(0, np.dtype(code))


class LossInputs(NamedTuple):
    """What an algorithm's loss is computed from; position t holds what belongs to token t + 1."""

    logprob_BT: torch.Tensor
    """The trainer's, with gradient."""
    old_BT: torch.Tensor
    """The trainer's before the first update where the algorithm needs `trainer_logprobs`, else the generator's."""
    reference_BT: torch.Tensor | None
    """The frozen start's, where the algorithm needs them."""
    advantage_BT: torch.Tensor
    mask_BT: torch.Tensor
    """Weight of each token in the loss; 0 on prompts and on what is not learned from."""
    taught: Taught | None = None
    """What a teacher says of them, where the algorithm needs one."""
    scores: Scores | None = None
    """All that the trainer's head answered, with gradient: of the teacher's tokens too."""
    generator_BT: torch.Tensor | None = None
    """The generator's log-probabilities."""
    entropy_BT: torch.Tensor | None = None
    """Of the policy's distribution at each token, with gradient, where the algorithm needs `entropy`."""
    sample_BT: torch.Tensor | None = None
    """Number of the sample that each position belongs to, int64 from 0, where a row may hold several; None: one a row. What a
    position that counts in no loss says does not matter."""

    def sequence_sums(self, value_BT: torch.Tensor) -> torch.Tensor:
        """At each position the sum of `value_BT` over its whole completion, [B, T]; 0 must stand where nothing counts."""
        if self.sample_BT is None:
            return value_BT.sum(1, keepdim=True).expand_as(value_BT)
        at = self.sample_BT.flatten()
        sums = value_BT.new_zeros(int(at.max()) + 1).index_add(0, at, value_BT.flatten())
        return sums[at].view_as(value_BT)


class CriticInputs(NamedTuple):
    """What the loss of a critic is computed from, laid out as `LossInputs`."""

    value_BT: torch.Tensor
    """The critic's, with gradient."""
    old_value_BT: torch.Tensor
    """Before the first update of the iteration."""
    return_BT: torch.Tensor
    mask_BT: torch.Tensor


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
    """One sample of each trajectory that has a score, without advantages.

    Args:
        rollouts: all of each prompt that is learned from.
        rows: of all prompts that were asked, at `position` of their order.
    """
    samples: list[Sample] = []
    places = Counter[int]()
    for one in rollouts:
        drawn, place = one.trajectory, places[one.prompt.row]
        places[one.prompt.row] += 1
        if one.score is None:
            continue
        samples.append(
            Sample(
                one.prompt.row,
                [*one.prompt.tokens, *drawn.tokens],
                len(one.prompt.tokens),
                drawn.logprobs,
                one.score.value,
                mask=drawn.mask,
                token_rewards=one.token_rewards,
                versions=drawn.versions,
                finished=drawn.finished,
                parts={name: part.value for name, part in one.parts.items()} if one.parts else None,
                place=place,
            )
        )
    return Experience(samples, rows, position)
