"""What generators are asked after they took weights, and what the trainer says of it."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from raylm.data.batch import pad
from raylm.data.shards import Rows
from raylm.inference.weight_transfer import Probe
from raylm.model.head import Asks
from raylm.model.scores import causal

if TYPE_CHECKING:
    from raylm.trainer.trainer import Trainer

NUM_PROBES = 4
LENGTH = 64
"""Most tokens of each: the last ones of a prompt, for prompts often begin alike."""


def probes_of(trainer: Trainer, uri: str, pad_id: int, averaged: bool) -> tuple[Probe, ...]:
    """A few prompts and their log-probabilities. Every rank must call; rank 0's count.

    Args:
        uri: prompts.
        averaged: by the moving averages, where they are kept.
    """
    import numpy as np

    sequences = _sequences(uri)
    if not sequences:
        return ()
    engine = trainer.engine
    tokens = [np.asarray(one) for one in sequences]
    batch = causal(pad(tokens, [np.ones(len(one)) for one in tokens], pad_id, engine.device))
    if averaged:
        with engine.averages():
            (scores,) = engine.forward([batch], Asks())
    else:
        (scores,) = engine.forward([batch], Asks())
    # what position t is asked for is token t + 1
    rows = scores.logprob_BT.float().cpu().tolist()
    return tuple(Probe(list(one), row[: len(one) - 1]) for one, row in zip(sequences, rows, strict=True))


@cache
def _sequences(uri: str) -> tuple[tuple[int, ...], ...]:
    rows = Rows.open(uri, "train")
    found = [tuple(rows[at]["tokens"])[-LENGTH:] for at in range(min(NUM_PROBES, len(rows)))]
    # of a single token nothing is said
    return tuple(tuple(int(token) for token in one) for one in found if len(one) > 1)
