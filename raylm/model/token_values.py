"""What a value head says of each token of some sequences, in batches: how reward models score answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from raylm.core.errors import ConfigError, DataError
from raylm.model.limits import positions
from raylm.model.load import load_model
from raylm.model.value_head import with_value_head

if TYPE_CHECKING:
    import numpy as np


class TokenValues:
    """A reward model, on a GPU where the process has one.

    Args:
        path: where its files lie.
        dtype: what it computes in: auto (as stored), float32, bfloat16.
        batch_tokens: tokens of one forward pass, with their padding.

    Raises:
        ConfigError: it is a language model, or its head is of classes.
    """

    def __init__(self, path: str, dtype: str = "auto", batch_tokens: int = 16_384) -> None:
        import torch

        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model: Any = load_model(path, dtype, value_head=True)
        if not hasattr(model, "score"):
            raise ConfigError("this model has no value head", where=path, next="name a checkpoint that `objective = reward` made")
        self._model = with_value_head(model, seed=0).to(device).eval()
        self._device, self._batch_tokens = device, batch_tokens
        self._most, self._vocab_size = positions(model.config.to_dict()), model.get_input_embeddings().weight.shape[0]

    def __call__(self, sequences: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """The value at each token, float32 [tokens], of each sequence.

        Raises:
            DataError: a sequence is empty, longer than the model's positions, or has a token beyond its embedding.
        """
        import torch

        for tokens in sequences:
            self._check(tokens)
        found: dict[int, Any] = {}
        for places in batches([len(tokens) for tokens in sequences], self._batch_tokens):
            width = max(len(sequences[place]) for place in places)
            tokens_BT = torch.zeros(len(places), width, dtype=torch.long)
            attend_BT = torch.zeros(len(places), width, dtype=torch.long)
            for row, place in enumerate(places):
                size = len(sequences[place])
                tokens_BT[row, :size] = torch.tensor(sequences[place])
                attend_BT[row, :size] = 1
            with torch.inference_mode():
                out = self._model(input_ids=tokens_BT.to(self._device), attention_mask=attend_BT.to(self._device))
                value_BT = out.logits[..., 0].float().cpu().numpy()
            for row, place in enumerate(places):
                found[place] = value_BT[row, : len(sequences[place])]
        return [found[place] for place in range(len(sequences))]

    def _check(self, tokens: Sequence[int]) -> None:
        if not tokens:
            raise DataError("a sequence without tokens has no value")
        if self._most is not None and len(tokens) > self._most:
            raise DataError(f"a sequence has {len(tokens)} tokens, the reward model {self._most} positions")
        if max(tokens) >= self._vocab_size:
            raise DataError(f"a sequence has token {max(tokens)}, the reward model's embedding {self._vocab_size} rows")


def batches(lengths: Sequence[int], most: int) -> list[list[int]]:
    """Places of sequences, of like length together, in batches of at most `most` tokens with their padding (at least one
    sequence each). Example: batches([1, 9, 2], 10) == [[0, 2], [1]]."""
    found: list[list[int]] = []
    for place in sorted(range(len(lengths)), key=lengths.__getitem__):
        if found and (len(found[-1]) + 1) * lengths[place] <= most:
            found[-1].append(place)
        else:
            found.append([place])
    return found
