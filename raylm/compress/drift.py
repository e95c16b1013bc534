"""How far a changed model is from the original: KL divergence and flipped tokens on rows that no method has seen."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from raylm.compress.blocks import texts
from raylm.core.errors import DataError

if TYPE_CHECKING:
    import torch

# tokens whose logits are held at once
AT_ONCE = 512


def drift(original: Any, changed: Any, batches: list[torch.Tensor]) -> dict[str, float]:
    """Mean KL(original || changed) per token in nats, and the share of tokens whose likeliest successor is another one.

    Args:
        original, changed: causal models over the same vocabulary, as transformers computes them.
        batches: token ids [rows, tokens].

    Raises:
        DataError: logits are not finite.
    """
    import torch

    total = flipped = 0.0
    count = 0
    with torch.no_grad():
        for ids in batches:
            for row in ids:
                left_TV, right_TV = (_logits(model, row) for model in (original, changed))
                for at in range(0, len(row), AT_ONCE):
                    ours, theirs = (each[at : at + AT_ONCE].float().log_softmax(-1) for each in (left_TV, right_TV))
                    chances = ours.exp()
                    # tokens that the original rules out count nothing, whatever the other says of them
                    nats = (chances * (ours - theirs)).masked_fill(chances == 0, 0.0)
                    total += float(nats.sum(-1).double().sum())
                    flipped += float((ours.argmax(-1) != theirs.argmax(-1)).sum())
                count += len(row)
    if not math.isfinite(total):
        raise DataError(
            f"on the held rows the changed model is {total} nats from the original",
            next="its numbers are not finite there, or rule out what the original says: take another method or dtype",
        )
    return {"kl": total / count, "flipped": flipped / count, "held_tokens": float(count)} if count else {}


def _logits(model: Any, row: torch.Tensor) -> Any:
    return model.eval()(**texts(model, row[None])).logits[0]
