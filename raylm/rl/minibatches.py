"""Lays the samples of an iteration out: minibatches of optimizer steps, each rank's share, micro batches of forward passes.

samples --seeded order--> minibatches --balanced by tokens--> ranks --> micro batches --> padded rows, or prompts that are
computed once for all their completions (`raylm.data.padding_free`)

Shapes: B rows, T tokens of a row; N tokens after a sample's prompt.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from raylm.data.batch import Batch, pad
from raylm.data.padding_free import Tree, lay
from raylm.model.scores import Inputs, causal
from raylm.rl.types import Floats, Sample

if TYPE_CHECKING:
    import numpy as np
    import torch

SAVED = 16
"""Tokens per sample that rows without padding must save: many short documents cost attention more than a few padded tokens do.
Measured on CPUs: 0.6 times as fast where they save 3, 1.5 times where they save 50, 4 times where they save 120."""


class Micro(NamedTuple):
    """Samples of one forward pass, those of a group one behind the other."""

    samples: list[Sample]
    real: bool = True
    """False: it only fills up a rank's share, and weighs nothing."""


class Laid(NamedTuple):
    """A micro batch as the model is fed with it."""

    micro: Micro
    batch: Batch
    inputs: Inputs
    """They ask for every token after the prompts."""
    places: list[np.ndarray]
    """Of each sample, where in the flattened rectangle the positions in front of its N tokens are."""

    def spread(self, values: Iterable[Floats | float]) -> torch.Tensor:
        """Values of each sample (one per token, or one for all), float32 [B, T], 0 elsewhere."""
        import numpy as np
        import torch

        shape = self.inputs.target_BT.shape
        flat = np.zeros(shape.numel(), dtype=np.float32)
        for at, each in zip(self.places, values, strict=True):
            flat[at] = each
        return torch.from_numpy(flat.reshape(shape)).to(self.inputs.target_BT.device)

    @property
    def sample_BT(self) -> torch.Tensor | None:
        """Number of the sample that asks at each position, int64, 0 elsewhere; None where each row is a sample."""
        return None if self.batch.place_SL is None else self.spread(range(len(self.micro.samples))).long()

    def gathered(self, values_BT: torch.Tensor) -> list[np.ndarray]:
        """The values of each sample's tokens, float32 [N] each."""
        flat = values_BT.detach().float().flatten().cpu().numpy()
        return [flat[at] for at in self.places]

    def asking(self, weights: Iterable[Floats | float]) -> Inputs:
        """Inputs that ask for tokens of these weights; a micro batch that only fills up asks for none."""
        return self.inputs._replace(weight_BT=self.spread(weights) * float(self.micro.real))


def in_minibatches(samples: list[Sample], count: int, seed: int) -> list[list[Sample]]:
    """`count` parts of about equally many whole groups in a shuffled order; of samples, where there are fewer groups than parts.
    One part keeps the order as it is; parts may be empty where there are fewer samples.

    Args:
        seed: of the order.
    """
    import numpy as np

    if count == 1:
        return [samples]
    units = _groups(samples)
    if len(units) < count:
        units = [[sample] for sample in samples]
    order = np.random.default_rng(seed).permutation(len(units))
    return [[sample for at in part for sample in units[at]] for part in np.array_split(order, count)]


def pays(samples: list[Sample], micro: int) -> bool:
    """Whether it is faster to compute a prompt once for all its completions, in rows without padding.

    Args:
        micro: samples of a forward pass.
    """
    lengths = sorted((len(sample.tokens) for sample in samples), reverse=True)
    padded = sum(lengths[at] * len(lengths[at : at + micro]) for at in range(0, len(lengths), micro))
    # the last token of a prompt stands in front of each of its completions
    laid = sum(_tokens(unit) + len(unit) for unit in _groups(samples))
    return padded - laid >= SAVED * len(samples)


def micros_of(samples: list[Sample], rank: int, world: int, micro: int, shared: bool) -> list[Micro]:
    """This rank's micro batches of a minibatch: equally many on every rank, because ranks meet in each, with about equally many
    tokens, and of samples that are about equally long.

    Args:
        micro: samples of one at most.
        shared: keep samples of one prompt together: what they begin with is computed once.
    """
    units = [unit[at : at + micro] for unit in _groups(samples) for at in range(0, len(unit), micro)] if shared else []
    units = units or [[sample] for sample in samples]
    # the longest first, to the ranks forth and back
    units.sort(key=_tokens, reverse=True)
    while shared and len(units) % world and len(units[0]) > 1:
        # one rank would have a unit more than another
        first = units.pop(0)
        units += [first[: len(first) // 2], first[len(first) // 2 :]]
        units.sort(key=_tokens, reverse=True)
    dealt: list[list[list[Sample]]] = [[] for _ in range(world)]
    for start in range(0, len(units), world):
        ranks = range(world) if start // world % 2 == 0 else reversed(range(world))
        for at, unit in zip(ranks, units[start : start + world], strict=False):
            dealt[at].append(unit)
    packed = [_packed(each, micro) for each in dealt]
    missing = max(map(len, packed)) - len(packed[rank])
    return [*map(Micro, packed[rank]), *[Micro(units[-1][:1], real=False)] * missing]


def lay_out(micro: Micro, pad_id: int, device: Any, shared: bool) -> Laid:
    """The micro batch in rows: padded, or with `shared` one behind the other with what they share once."""
    import numpy as np

    samples = micro.samples
    tokens = [np.asarray(sample.tokens) for sample in samples]
    if not shared:
        masks = [np.arange(len(sample.tokens)) >= sample.num_prompt for sample in samples]
        batch = pad(tokens, masks, pad_id, device, row_weights=[float(micro.real)] * len(samples))
        length = batch.tokens_BT.shape[1]
        places = [row * length + np.arange(sample.num_prompt - 1, len(sample.tokens) - 1) for row, sample in enumerate(samples)]
        return Laid(micro, batch, causal(batch), places)
    groups = _groups(samples)
    trees = [
        Tree(
            np.asarray(group[0].tokens[: group[0].num_prompt]),
            [np.asarray(sample.tokens[sample.num_prompt :]) for sample in group],
            [np.ones(len(sample.tokens) - sample.num_prompt) for sample in group],
        )
        for group in groups
    ]
    batch = lay(trees, pad_id, device, row_weights=[float(micro.real)] * len(trees))
    assert batch.place_SL is not None
    place = batch.place_SL.cpu().numpy()
    at = {
        id(sample): place[branch * len(groups) + number, sample.num_prompt - 1 : len(sample.tokens) - 1]
        for number, group in enumerate(groups)
        for branch, sample in enumerate(group)
    }
    return Laid(micro, batch, causal(batch), [at[id(sample)] for sample in samples])


def _groups(samples: Sequence[Sample]) -> list[list[Sample]]:
    """Samples of one prompt each, in order."""
    import numpy as np

    found: dict[tuple[int, bytes], list[Sample]] = {}
    for sample in samples:
        # a conversation may begin with another prompt than the one of its row
        prompt = np.asarray(sample.tokens[: sample.num_prompt], np.int64).tobytes()
        found.setdefault((sample.row, prompt), []).append(sample)
    return list(found.values())


def _tokens(unit: list[Sample]) -> int:
    return unit[0].num_prompt + sum(len(sample.tokens) - sample.num_prompt for sample in unit)


def _packed(units: list[list[Sample]], micro: int) -> list[list[Sample]]:
    """Micro batches of at most `micro` samples, units in order."""
    found: list[list[Sample]] = []
    for unit in units:
        if found and len(found[-1]) + len(unit) <= micro:
            found[-1] = [*found[-1], *unit]
        else:
            found.append(list(unit))
    return found
