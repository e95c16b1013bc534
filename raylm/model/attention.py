"""Takes queries, keys, values and the boundaries of documents, leaves what attention makes of them on this device.

rungs: varlen (flash kernels over document lengths) | flex | sdpa (with a mask of documents)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch

NAME = "raylm"


class Boundaries(NamedTuple):
    """Where documents lie in packed rows; travels as a keyword argument through the model to its attention."""

    document_BT: torch.Tensor
    """Number of each token's document, -1 on padding: a token sees no other document."""


def install(model: Any) -> None:
    """Let `model` attend through this file. Idempotent; models that cannot are left as they are."""
    from transformers import AttentionInterface

    if not getattr(model, "_supports_attention_backend", False) or model.config._attn_implementation == NAME:
        return
    AttentionInterface.register(NAME, attend)
    model.set_attn_implementation(NAME)


def attend(
    module: Any,
    query_BHTK: torch.Tensor,
    key_BHTK: torch.Tensor,
    value_BHTK: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    boundaries: Boundaries | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention as transformers calls it; returns [B, T, H, K] and no weights."""
    import torch

    mask = None if boundaries is None else within_documents(boundaries.document_BT)
    out_BHTK = torch.nn.functional.scaled_dot_product_attention(
        query_BHTK,
        key_BHTK,
        value_BHTK,
        attn_mask=mask,
        dropout_p=dropout,
        scale=scaling,
        is_causal=mask is None,
        enable_gqa=key_BHTK.shape[1] != query_BHTK.shape[1],
    )
    return out_BHTK.transpose(1, 2).contiguous(), None


def within_documents(document_BT: torch.Tensor) -> torch.Tensor:
    """Mask for scaled dot-product attention, bool [B, 1, T, T]: a token sees itself and what its document said before.

    Padding is a document of its own: a row that may see nothing would become NaN.
    """
    same_BTT = document_BT[:, :, None] == document_BT[:, None, :]
    return same_BTT.tril()[:, None]
