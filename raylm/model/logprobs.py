"""Log-probabilities of the tokens of padded rows.

Shapes: B rows, T tokens, V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def token_logprobs(model: torch.nn.Module, batch: Any, temperature: float = 1.0) -> torch.Tensor:
    """Log-probability of token t given tokens before t under any causal model, float32 [B, T]; column 0 is 0.

    All logits are held; training asks the head instead (`raylm.model.scores`).

    Args:
        temperature: logits are divided by it, as a sampler does.
    """
    import torch

    attend_BT = None if bool(batch.attend_BT.all()) else batch.attend_BT
    logits_BTV = model(input_ids=batch.tokens_BT, attention_mask=attend_BT, use_cache=False).logits
    logits_BTV = logits_BTV[:, :-1].float()
    if temperature != 1.0:
        logits_BTV = logits_BTV / temperature
    losses = torch.nn.functional.cross_entropy(logits_BTV.flatten(0, 1), batch.tokens_BT[:, 1:].flatten(), reduction="none")
    return torch.nn.functional.pad(-losses.view(len(batch.tokens_BT), -1), (1, 0))
