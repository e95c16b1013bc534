"""Takes padded token rows, leaves the model's log-probability of each token.

Shapes: B rows, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    import torch


class Padded(NamedTuple):
    """Rows of unequal length in one rectangle."""

    tokens_BT: torch.Tensor
    attend_BT: torch.Tensor
    """1 on real tokens, 0 on padding."""
    weight_BT: torch.Tensor
    """1 on tokens that count (a loss mask); never 1 on the first token, which nothing predicts."""


def pad(rows: Sequence[np.ndarray], masks: Sequence[np.ndarray], pad_id: int, device: torch.device | str = "cpu") -> Padded:
    """Right-pad `rows` (int) with `pad_id`; `masks` say which tokens count."""
    import numpy as np
    import torch

    length = max(len(row) for row in rows)
    tokens = torch.full((len(rows), length), pad_id, dtype=torch.long)
    attend, weight = torch.zeros(len(rows), length, dtype=torch.long), torch.zeros(len(rows), length)
    for index, (row, mask) in enumerate(zip(rows, masks, strict=True)):
        tokens[index, : len(row)] = torch.tensor(np.asarray(row, dtype=np.int64))
        attend[index, : len(row)] = 1
        weight[index, : len(row)] = torch.tensor(np.asarray(mask, dtype=np.float32))
    weight[:, 0] = 0.0
    return Padded(tokens.to(device), attend.to(device), weight.to(device))


def token_logprobs(model: torch.nn.Module, padded: Padded, temperature: float = 1.0) -> torch.Tensor:
    """Log-probability of token t given tokens before t, float32 [B, T]; column 0 is 0.

    Args:
        temperature: logits are divided by it, as a sampler does.
    """
    import torch

    whole = bool(padded.attend_BT.all())
    logits_BTV = model(input_ids=padded.tokens_BT, attention_mask=None if whole else padded.attend_BT, use_cache=False).logits
    logits_BTV = logits_BTV[:, :-1].float()
    if temperature != 1.0:
        logits_BTV = logits_BTV / temperature
    losses = torch.nn.functional.cross_entropy(logits_BTV.flatten(0, 1), padded.tokens_BT[:, 1:].flatten(), reduction="none")
    return torch.nn.functional.pad(-losses.view(len(padded.tokens_BT), -1), (1, 0))
