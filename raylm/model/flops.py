"""Floating point operations of training a model, from its config.json. No torch.

forward = 2 x weights that a token passes + 2 x (query . key and weight . value) of attention
backward = 2 x forward: one product for the gradient of the input, one for that of the weight
"""

from __future__ import annotations

from typing import Any

from raylm.model.model_spec import model_spec


def flops_per_row(config: dict[str, Any], length: int, target_length: int = 0) -> float:
    """Forward and backward FLOPs of one row, as MFU counts them (https://arxiv.org/abs/2204.02311, appendix B).

    Attention counts all pairs of tokens, those that a causal mask hides too; recomputed activations, the softmax, norms and
    the optimizer do not count. A token meets the experts that it is sent to and no other.

    Args:
        config: config.json of the model.
        length: tokens of the row; of encoder-decoders those that the encoder reads.
        target_length: tokens that an encoder-decoder writes.
    """
    parts, tokens = model_spec(config), {"source": length, "target": target_length}
    matrices = sum(m.passes * m.num_in * m.num_out * tokens[m.tokens] for m in parts.matrices)
    pairs = sum(a.heads * (a.qk_dim + a.v_dim) * tokens[a.queries] * tokens[a.keys] for a in parts.attentions)
    return 6.0 * (matrices + pairs)


def flops_per_token(config: dict[str, Any], length: int) -> float:
    """`flops_per_row` of a row of `length` tokens, divided by them. Not for encoder-decoders, whose rows have two lengths."""
    return flops_per_row(config, length) / length
