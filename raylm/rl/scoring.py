"""The scoring pass: what trainer, reference and critic say of an iteration's samples before any of them learns.

samples --balanced--> data ranks --micro batches, no gradients--> log-probabilities, values --gathered--> samples
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from raylm.core.errors import StageError
from raylm.model.head import Asks
from raylm.rl.minibatches import lay_out, micros_of
from raylm.rl.types import Sample

if TYPE_CHECKING:
    import numpy as np
    import torch

    from raylm.model.scores import Inputs, Scores
    from raylm.parallel.mesh import Grid

COLUMNS = {"trainer_logprobs": "trainer_logprobs", "reference": "reference_logprobs", "critic": "values"}
"""The field of a sample that each need fills."""
Forward = Callable[[Sequence["Inputs"], Asks], list["Scores"]]
"""A pass without gradients, in which all ranks meet."""


class Scorer(NamedTuple):
    """Who is asked, and how samples are laid out for it."""

    forward: dict[str, Forward]
    """Who meets each need."""
    grid: Grid
    group: Any
    """Of all ranks, on their hosts; None on one rank."""
    device: torch.device
    temperature: float
    micro: int
    """Samples of a forward pass."""
    pad_id: int
    shared: bool
    """See `lay_out`."""

    def scored(self, samples: list[Sample], needs: Collection[str]) -> list[Sample]:
        """The samples with what `needs` asks for, the same on every rank. Every rank must call.

        Args:
            needs: of `trainer_logprobs`, `reference`, `critic`; what else is there is somebody else's.

        Raises:
            StageError: what was computed is not finite.
        """
        wanted = [need for need in COLUMNS if need in needs]
        if not wanted or not samples:
            return samples
        numbers = {id(sample): number for number, sample in enumerate(samples)}
        micros = micros_of(samples, self.grid.data_rank, self.grid.data_world, self.micro, self.shared)
        laid = [lay_out(micro, self.pad_id, self.device, self.shared) for micro in micros]
        # a policy is asked for what it drew, a critic for every state
        drawn, every = (
            [one.asking(sample.mask_or_ones for sample in one.micro.samples) for one in laid],
            [one.inputs for one in laid],
        )
        mine: dict[int, dict[str, np.ndarray]] = {}
        for need in wanted:
            of_critic = need == "critic"
            asks = Asks(values=True) if of_critic else Asks(temperature=self.temperature)
            answers = self.forward[need](every if of_critic else drawn, asks)
            for one, scores in zip(laid, answers, strict=True):
                values_BT = scores.value_BT if of_critic else scores.logprob_BT
                for sample, values in zip(one.micro.samples, one.gathered(values_BT), strict=True):
                    if one.micro.real:
                        mine.setdefault(numbers[id(sample)], {})[COLUMNS[need]] = values
        whole = self._of_all(mine)
        _check_finite(samples, whole)
        return [sample._replace(**whole[number]) for number, sample in enumerate(samples)]

    def _of_all(self, mine: dict[int, dict[str, np.ndarray]]) -> dict[int, dict[str, np.ndarray]]:
        """What all ranks found; of those that share rows the first one says it."""
        import torch.distributed as dist

        if self.group is None:
            return mine
        repeats = any(self.grid.at[name] for name in ("pipeline", "context", "tensor"))
        parts: list[Any] = [None] * self.grid.world
        dist.all_gather_object(parts, {} if repeats else mine, group=self.group)
        return {number: columns for part in parts for number, columns in part.items()}


def lacking(samples: Sequence[Sample], needs: Collection[str]) -> list[str]:
    """Needs that some sample does not meet yet."""
    return [need for need, column in COLUMNS.items() if need in needs and any(getattr(s, column) is None for s in samples)]


def _check_finite(samples: Sequence[Sample], whole: dict[int, dict[str, np.ndarray]]) -> None:
    import numpy as np

    for number, columns in sorted(whole.items()):
        for name, values in columns.items():
            if not np.isfinite(values).all():
                raise StageError(
                    f"{name} of a completion are not finite: the weights of a model hold NaN or infinity, or it overflows",
                    where=f"prompt {samples[number].row}",
                    next='look at the model named there; dtype = "float32" has the wider range',
                )
