"""Log-probabilities by a model of transformers, held by the process that asks."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

from raylm.evaluate.backends.backend import Score
from raylm.model.head import LOGPROBS, Asks
from raylm.model.limits import positions
from raylm.model.load import load_model, load_tokenizer
from raylm.model.scores import Inputs, ask
from raylm.model.shapes.shape import Shape

MICRO = 32
"""Rows of one forward pass at most."""
MICRO_TOKENS = 8192
"""Its tokens at most, padding included; a longer row goes alone."""


class TransformersScorer:
    """A model on one worker.

    Args:
        path: where its files lie; of a fresh model, where its tokenizer lies.
        fresh: shape, token facts and seed of a model to measure before its first step.
    """

    def __init__(self, path: str, fresh: tuple[Shape, dict[str, Any], int] | None = None) -> None:
        self._path, self._fresh = path, fresh
        self._model: Any = None
        self._tokenizer: Any = None

    @property
    def tokenizer(self) -> Any:
        """The model's own."""
        if self._tokenizer is None:
            self._tokenizer = load_tokenizer(self._path)
        return self._tokenizer

    def positions(self) -> int | None:
        """Longest text that the model was made for, in tokens."""
        return positions(self._loaded().config.to_dict())

    def vocabulary(self) -> int | None:
        """Rows of its embedding."""
        return self._loaded().get_input_embeddings().weight.shape[0]

    def scores(self, rows: Sequence[Any], masks: Sequence[Any], greedy: bool) -> Iterator[tuple[int, Score | str]]:
        """Rows of like length share a forward pass, the longest first: what does not fit into memory fails at once."""
        import torch

        model = self._loaded()
        device = next(model.parameters()).device
        order = sorted(range(len(rows)), key=lambda at: -len(rows[at]))
        while order:
            count = max(min(MICRO, MICRO_TOKENS // len(rows[order[0]])), 1)
            batch, order = order[:count], order[count:]
            began = time.monotonic()
            inputs = _inputs([rows[at] for at in batch], [masks[at] for at in batch], device)
            with torch.no_grad():
                found = ask(model, inputs, Asks(top_k=1) if greedy else LOGPROBS, "chunked")
            sums = (found.logprob_BT.double() * inputs.weight_BT).sum(1).tolist()
            likeliest = [False] * len(batch)
            if greedy:
                hit_BT = (found.top_id_BTK[..., 0] == inputs.target_BT) | (inputs.weight_BT == 0)
                likeliest = hit_BT.all(1).tolist()
            seconds = (time.monotonic() - began) / len(batch)
            for at, nats, hit in zip(batch, sums, likeliest, strict=True):
                yield at, Score(nats, hit, seconds)

    def _loaded(self) -> Any:
        import torch

        if self._model is None:
            shape = self._fresh
            model = shape[0].build(shape[1], shape[2]) if shape else load_model(self._path)
            # Ray hides the GPUs that were not asked for
            self._model = model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
        return self._model


def _inputs(rows: Sequence[Any], masks: Sequence[Any], device: Any) -> Inputs:
    """Position t is asked for token t + 1, and the last token is no input: a model of P positions scores P + 1 tokens. What
    stands behind a row is asked for nothing, and attention looks left: no mask is needed."""
    import numpy as np
    import torch

    length = max(map(len, rows)) - 1
    tokens = np.zeros((len(rows), length), dtype=np.int64)
    target, weight = np.zeros_like(tokens), np.zeros(tokens.shape, dtype=np.float32)
    for at, (row, mask) in enumerate(zip(rows, masks, strict=True)):
        count = len(row) - 1
        tokens[at, :count], target[at, :count], weight[at, :count] = row[:-1], row[1:], mask[1:]
    return Inputs({"input_ids": torch.from_numpy(tokens).to(device)}, *(torch.from_numpy(x).to(device) for x in (target, weight)))
