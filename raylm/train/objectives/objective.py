"""Takes nothing, leaves what every objective has: what it asks of the model, what a batch weighs, what it loses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from raylm.core.config import Config

if TYPE_CHECKING:
    import torch

    from raylm.model.logprobs import Padded
    from raylm.model.scores import Inputs, Scores
    from raylm.train.batches import Micro


class Loss(NamedTuple):
    """Sums over a micro batch, never means: the loop divides by the weight of the whole global batch."""

    total: torch.Tensor
    metrics: dict[str, torch.Tensor]


class Objective(Config):
    """A training loss: a pure function of the log-probabilities of the tokens it asks for."""

    rows: ClassVar[tuple[str, ...]] = ()
    """Kinds of rows it learns from."""
    needs: ClassVar[tuple[str, ...]] = ()
    """`reference`: scores of the frozen start are handed in."""

    def inputs(self, padded: Padded, seed: int) -> Inputs:
        """What the model is fed and asked; next-token prediction unless an objective says otherwise.

        Args:
            seed: differs between steps and ranks and is the same in a resumed run, for objectives that draw.
        """
        from raylm.model.scores import causal

        return causal(padded)

    def asked(self) -> dict[str, Any]:
        """Options of `raylm.model.scores.ask`."""
        return {}

    def weight(self, micro: Micro, inputs: Inputs) -> float:
        """What this micro batch weighs in the global batch: tokens that count, or pairs."""
        return float(inputs.weight_BT.sum())

    def loss(self, scores: Scores, inputs: Inputs, micro: Micro, reference: Scores | None = None) -> Loss:
        """Sums over the micro batch; `metrics` hold `loss`."""
        raise NotImplementedError
