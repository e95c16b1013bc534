"""Installs raylm's attention in a model: causal attention within documents, on any device.

backends: varlen (flash kernels over document lengths) | flex | segments (document by document) | sdpa (with a mask)

Shapes: B rows, T tokens, H query heads, G key and value heads, K size of a head.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from raylm.core.errors import ConfigError
from raylm.model.transformers_private import attention_of, has_attention_backends

if TYPE_CHECKING:
    import torch

    from raylm.model.attention_backends import Call

NAME = "raylm"
BACKENDS = ("auto", "varlen", "flex", "segments", "sdpa")
# these make a mask of the window and hand it in, where others hand in the window's width
WINDOW_BY_MASK = ("doge", "paligemma", "phimoe", "qwen2_moe")


class Boundaries(NamedTuple):
    """Where documents lie in packed rows; travels as a keyword argument through the model to its attention."""

    document_BT: torch.Tensor
    """Number of each token's document, rising along a row, -1 on padding: a token sees no other document."""
    prefix_BT: torch.Tensor | None = None
    """Number of a document that lies before and that the token sees too, as if its own went on from there; its own document's
    where there is none. None: nowhere."""


class Across(Protocol):
    """Attention of rows whose tokens lie on several ranks; travels as the keyword argument `across`."""

    def attend(self, query_BHTK: Any, key_BGTK: Any, value_BGTK: Any, call: Call, inner: Any) -> Any:
        """[B, H, T, K] of this rank's tokens; `inner(query, key, value, call)` attends on one rank."""
        ...


def refused(model: Any) -> str | None:
    """Why `model` cannot attend through this file; None when it can."""
    config: Any = model.config.get_text_config()
    if not has_attention_backends(model):
        return "its attention cannot be exchanged"
    if config.is_encoder_decoder or any(getattr(module, "is_causal", True) is False for module in model.modules()):
        return "it attends in both directions"
    if getattr(config, "attn_logit_softcapping", None):
        return "it caps attention scores"
    if any(hasattr(module, "sinks") for module in model.modules()):
        return "it has attention sinks"
    if any(hasattr(module, "indexer") for module in model.modules()):
        return "an indexer picks what its tokens see"
    layers = set(getattr(config, "layer_types", None) or ())
    if any("chunked" in layer or "compressed" in layer for layer in layers):
        return f"it has {', '.join(sorted(layers))}"
    if config.model_type in WINDOW_BY_MASK and (getattr(config, "sliding_window", None) or "sliding_attention" in layers):
        return "its sliding window is a mask"
    return None


def refused_documents(model: Any) -> str | None:
    """Why `model` cannot keep the documents of a row apart, or cannot be cut along its tokens; None when it can."""
    if reason := refused(model):
        return reason
    layers = set(getattr(model.config.get_text_config(), "layer_types", None) or ())
    other = sorted(layers - {"full_attention", "sliding_attention"})
    return f"it has {', '.join(other)}" if other else None


def install(model: Any, backend: str = "auto") -> None:
    """Let `model` attend through this file. Idempotent; models that cannot are left as they are.

    Raises:
        ConfigError: `backend` was asked by name, and this model cannot take it.
    """
    from transformers import AttentionInterface

    if reason := refused(model):
        if backend != "auto":
            raise ConfigError(
                f"attention {backend!r} cannot run: {reason}", where=type(model).__name__, next='attention = "auto"'
            )
        return
    name = NAME if backend == "auto" else f"{NAME}_{backend}"
    # a model may come from a rank that has done this, into a process that has not
    AttentionInterface.register(name, partial(attend, backend=backend))
    if attention_of(model) != name:
        model.set_attn_implementation(name)


def installed(model: Any) -> bool:
    """Whether `model` attends through this file."""
    return attention_of(model).split("_")[0] == NAME


def attend(
    module: Any,
    query_BHTK: torch.Tensor,
    key_BGTK: torch.Tensor,
    value_BGTK: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    boundaries: Boundaries | None = None,
    across: Across | None = None,
    backend: str = "auto",
    **other: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention as transformers calls it; returns [B, T, H, K] and no weights.

    Raises:
        ConfigError: the model asks for something that is not computed here (a mask, sinks, a bias), or `backend`, asked by
            name, cannot run.
    """
    import torch

    from raylm.model.attention_backends import Call, run

    strange = [name for name in ("softcap", "s_aux", "position_bias", "cache") if other.get(name) is not None]
    if strange or attention_mask is not None:
        found = ", ".join(strange) or "a mask of its own"
        raise ConfigError(f"attention is not computed with {found}", where=type(module).__name__, next="take another model")
    size, value_size = query_BHTK.shape[-1], value_BGTK.shape[-1]
    documents = (boundaries.document_BT, boundaries.prefix_BT) if boundaries else (None, None)
    call = Call(size**-0.5 if scaling is None else scaling, documents[0], sliding_window, dropout, documents[1])
    dtype = value_BGTK.dtype
    if torch.is_autocast_enabled(value_BGTK.device.type):
        # kernels that autocast does not know would get a mixture
        dtype = torch.get_autocast_dtype(value_BGTK.device.type)
    # flash kernels take one size of head; zeros change no score (latent attention, MLA, has smaller values than keys)
    whole = max(size, value_size)
    query, key, value = (_widened(x.to(dtype), whole) for x in (query_BHTK, key_BGTK, value_BGTK))
    inner = partial(run, backend=backend)
    out_BHTK = inner(query, key, value, call) if across is None else across.attend(query, key, value, call, inner)
    return out_BHTK[..., :value_size].transpose(1, 2).contiguous(), None


def _widened(x: torch.Tensor, size: int) -> torch.Tensor:
    import torch

    return x if x.shape[-1] == size else torch.nn.functional.pad(x, (0, size - x.shape[-1]))
