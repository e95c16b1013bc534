"""Attention backends: causal attention over whole rows, by the fastest one that runs here.

Shapes: B rows, T tokens, H query heads, G key and value heads, K size of a head. Every backend takes [B, H, T, K], twice
[B, G, T, K] and a Call, and returns [B, H, T, K].
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch.utils.weak import WeakTensorKeyDictionary

from raylm.core.errors import ConfigError
from raylm.model.attention_layout import Span, layout, positions, seen, seen_from
from raylm.model.attention_prefix import continued

# what is derived from the documents of a micro batch (lengths, masks) is the same in each of its layers
_DERIVED: Any = WeakTensorKeyDictionary()

LARGE = 2**14
"""Scores of a document with its prefix from which on no mask is made for them."""

# what waits for other ranks, or differs with the documents of each micro batch, is not compiled into a graph: it would be
# compiled anew each time
uncompiled: Any = torch.compiler.disable


class Call(NamedTuple):
    """What attention is asked for beside queries, keys and values."""

    scale: float
    document_BT: torch.Tensor | None = None
    window: int | None = None
    """A token sees itself and this many tokens less one before it; None sees all."""
    dropout: float = 0.0
    prefix_BT: torch.Tensor | None = None
    """Number of the document that a token's document goes on from, see `raylm.model.attention.Boundaries`."""


def run(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, call: Call, backend: str = "auto") -> torch.Tensor:
    """Attention by `backend`; `auto` takes the first that runs here. Raises ConfigError when a named backend cannot."""
    length = query.shape[2]
    if call.window is not None and call.window >= length:
        call = call._replace(window=None)
    if backend != "auto" and (reason := refused(backend, query, call)):
        raise ConfigError(f"attention {backend!r} cannot run here: {reason}", next='attention = "auto" takes what runs')
    plain = call.document_BT is None and call.window is None
    if plain and backend in ("auto", "sdpa", "segments"):
        return _sdpa(query, key, value, call, None)
    return _limited(query, key, value, call, backend)


def refused(backend: str, query: torch.Tensor, call: Call) -> str | None:
    """Why `backend` cannot run on this device, dtype and size of head; None when it can."""
    size, device = query.shape[-1], query.device
    if backend == "varlen":
        if device.type != "cuda":
            return f"its kernels are for CUDA, this is {device.type}"
        if query.dtype not in (torch.float16, torch.bfloat16):
            return f"its kernels compute in half precision, this is {query.dtype}"
        if torch.cuda.get_device_capability(device) < (8, 0):
            return "its kernels need compute capability 8.0"
        if size > 256 or size % 8:
            return f"its kernels take heads of up to 256, in eights, these are {size}"
    if backend == "flex":
        if device.type != "cuda":
            return f"flex_attention has a backward pass on CUDA only, this is {device.type}"
        if find_spec("triton") is None:
            return "flex_attention is compiled by triton, which is not installed"
    if backend in ("varlen", "flex") and call.dropout:
        return "it has no attention dropout"
    if backend == "segments" and device.type != "cpu":
        return f"document by document is for CPUs, on {device.type} it would wait for each"
    return None


@uncompiled
def _limited(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, call: Call, backend: str) -> torch.Tensor:
    if backend == "auto":
        ladder = ("varlen", "flex", "segments") if call.document_BT is not None else ("varlen", "flex")
        backend = next((name for name in ladder if not refused(name, query, call)), "sdpa")
    if backend == "segments" and call.document_BT is None:
        backend = "sdpa"
    return _BACKENDS[backend](query, key, value, call)


def varlen(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, call: Call) -> torch.Tensor:
    """Flash kernels over the lengths of documents."""
    from torch.nn.attention.varlen import varlen_attn

    rows, heads, length, size = query.shape
    groups: dict[str, Any] = {}
    if key.shape[1] != heads and _varlen_takes_groups():
        groups = {"enable_gqa": True}
    elif key.shape[1] != heads:
        key, value = (x.repeat_interleave(heads // x.shape[1], 1) for x in (key, value))

    def lengths() -> _Lengths:
        whole = [[Span(0, length)]] * rows
        return _lengths(_layout(call) if call.document_BT is not None else whole, length, query.device)

    of = lengths() if call.document_BT is None else _once(call, "lengths", lengths)
    flat_query, flat_key, flat_value = (x.transpose(1, 2).reshape(rows * length, x.shape[1], size) for x in (query, key, value))
    if of.keys is not None:
        # keys of a prefix stand in front of those of each document that goes on from it
        flat_key, flat_value = (x.index_select(0, of.keys) for x in (flat_key, flat_value))
    # of fewer queries than keys the last ones meet: the kernels' masks are aligned to the lower right
    window = (-1, 0) if call.window is None else (call.window - 1, 0)
    made: Any = varlen_attn(
        flat_query,
        flat_key,
        flat_value,
        of.queries,
        of.seen,
        of.most,
        of.most_seen,
        scale=call.scale,
        window_size=window,
        **groups,
    )
    return made.view(rows, length, heads, size).transpose(1, 2)


class _Lengths(NamedTuple):
    """Documents as flash kernels take them."""

    queries: torch.Tensor
    """Cumulative lengths, int32 [documents + 1]."""
    seen: torch.Tensor
    """The same with each document's prefix."""
    most: int
    most_seen: int
    keys: torch.Tensor | None
    """Place of each document's keys in the flattened rows, those of its prefix first; None: where they stand."""


def _lengths(spans: list[list[Span]], length: int, device: torch.device) -> _Lengths:
    flat = [(row * length, span) for row, found in enumerate(spans) for span in found]
    counts, seen = [span.count for _, span in flat], [span.before + span.count for _, span in flat]
    queries, keys = (torch.tensor([0, *x]).cumsum(0, dtype=torch.int32).to(device) for x in (counts, seen))
    places = None
    if seen != counts:
        ranges = [part for at, span in flat for part in ((at, span.prefix), (at, (span.start, span.start + span.count)))]
        places = torch.cat([torch.arange(at + ends[0], at + ends[1]) for at, ends in ranges if ends]).to(device)
    return _Lengths(queries, keys, max(counts), max(seen), places)


def flex(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, call: Call) -> torch.Tensor:
    """flex_attention, compiled, with a block mask that skips what lies outside of documents and window."""
    mask = derived_block_mask(call, query.shape[2], query.device)
    return _compiled_flex()(query, key, value, block_mask=mask, scale=call.scale, enable_gqa=key.shape[1] != query.shape[1])


def derived_block_mask(call: Call, length: int, device: torch.device) -> Any:
    """`block_mask`, made once for all layers of a micro batch."""
    if call.document_BT is None:
        return block_mask(call, length, device)
    return _once(call, ("blocks", call.window), lambda: block_mask(call, length, device))


def block_mask(call: Call, length: int, device: torch.device) -> Any:
    """What flex_attention skips and what it masks."""
    from torch.nn.attention.flex_attention import create_block_mask

    # a mask keeps what it is made of: of the documents themselves it would keep its own key in `_DERIVED` alive
    document_BT, prefix_BT = (x if x is None else x.clone() for x in (call.document_BT, call.prefix_BT))
    window = call.window
    position_BT = None if prefix_BT is None or window is None else _positions(call)

    def sees(b: Any, _: Any, q: Any, k: Any) -> Any:
        seen = q >= k
        if document_BT is not None and prefix_BT is not None:
            seen = seen & ((document_BT[b, q] == document_BT[b, k]) | (prefix_BT[b, q] == document_BT[b, k]))
        elif document_BT is not None:
            seen = seen & (document_BT[b, q] == document_BT[b, k])
        if window is None:
            return seen
        apart = q - k if position_BT is None else position_BT[b, q] - position_BT[b, k]
        return seen & (apart < window)

    rows = None if document_BT is None else len(document_BT)
    return create_block_mask(sees, rows, None, length, length, device=str(device))


def segments(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, call: Call) -> torch.Tensor:
    """Each document by itself: work and memory grow with the documents' squares, not the row's. Padding becomes 0."""
    assert call.document_BT is not None
    rows = []
    for row, found in enumerate(_layout(call)):
        q_row, k_row, v_row = (x[row : row + 1] for x in (query, key, value))
        parts = []
        for span, q, k, v in zip(
            found, *(x.split([span.count for span in found], 2) for x in (q_row, k_row, v_row)), strict=True
        ):
            if span.padding:
                parts.append(torch.zeros_like(q))
                continue
            if span.prefix and span.before * span.count >= LARGE and call.window is None and not call.dropout:
                before = k_row[:, :, slice(*span.prefix)], v_row[:, :, slice(*span.prefix)]
                parts.append(continued(q, before, (k, v), call.scale))
                continue
            if span.prefix:
                k, v = (torch.cat([x[:, :, slice(*span.prefix)], own], 2) for x, own in ((k_row, k), (v_row, v)))
            parts.append(_sdpa(q, k, v, call, _segment_mask(call, span, q)))
        rows.append(torch.cat(parts, 2))
    return torch.cat(rows)


def _segment_mask(call: Call, span: Span, query: torch.Tensor) -> torch.Tensor | None:
    """What the queries of one document see of its prefix and itself; None where that is plainly causal."""
    narrow = call.window if call.window is not None and call.window < span.before + span.count else None
    if not span.before and narrow is None:
        return None

    def make() -> torch.Tensor:
        seen_QK = seen_from(span.count, span.before, narrow, query.device)
        # as it is added to scores: made of bools in each call otherwise
        return torch.zeros(seen_QK.shape, dtype=query.dtype, device=query.device).masked_fill_(~seen_QK, -torch.inf)

    return _once(call, ("segment", span.count, span.before, narrow, query.dtype), make)


def sdpa(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, call: Call) -> torch.Tensor:
    """scaled_dot_product_attention with a mask."""
    document_BT, length = call.document_BT, query.shape[2]
    if document_BT is None:
        return _sdpa(query, key, value, call, seen(None, call.window, length, query.device))

    def make() -> torch.Tensor:
        position_BT = None if call.prefix_BT is None or call.window is None else _positions(call)
        return seen(document_BT, call.window, length, document_BT.device, call.prefix_BT, position_BT)

    return _sdpa(query, key, value, call, _once(call, ("mask", call.window), make))


_BACKENDS: dict[str, Callable[..., torch.Tensor]] = {"varlen": varlen, "flex": flex, "segments": segments, "sdpa": sdpa}


def _layout(call: Call) -> list[list[Span]]:
    document_BT = call.document_BT
    assert document_BT is not None
    return _once(call, "layout", lambda: layout(document_BT, call.prefix_BT))


def _positions(call: Call) -> torch.Tensor:
    assert call.document_BT is not None
    return positions(_layout(call)).to(call.document_BT.device)


def _sdpa(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, call: Call, mask: torch.Tensor | None) -> torch.Tensor:
    repeats = query.shape[1] // key.shape[1]
    if repeats > 1 and mask is not None and query.is_cuda:
        # with grouped heads and a mask CUDA has the slow kernel alone
        key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
        repeats = 1
    return torch.nn.functional.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        dropout_p=call.dropout,
        scale=call.scale,
        is_causal=mask is None,
        enable_gqa=repeats > 1,
    )


@cache
def _varlen_takes_groups() -> bool:
    """Whether torch's kernels share keys among query heads: since 2.12."""
    from torch.nn.attention.varlen import varlen_attn

    return "enable_gqa" in inspect.signature(varlen_attn).parameters


@cache
def _compiled_flex() -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention)


def _once(call: Call, name: Any, make: Callable[[], Any]) -> Any:
    """What `make` makes of the documents of a micro batch, made once for all layers."""
    # the same documents with prefixes are others: prefixes belong to one tensor of documents
    owner = call.document_BT if call.prefix_BT is None else call.prefix_BT
    known = _DERIVED.setdefault(owner, {})
    if name not in known:
        known[name] = make()
    return known[name]
