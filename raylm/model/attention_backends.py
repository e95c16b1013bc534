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

# what is derived from the documents of a micro batch (lengths, masks) is the same in each of its layers
_DERIVED: Any = WeakTensorKeyDictionary()

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

    def starts() -> tuple[torch.Tensor, int]:
        lengths = (
            [count for row in spans(call.document_BT) for count, _ in row] if call.document_BT is not None else [length] * rows
        )
        ends = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32)
        return ends.to(query.device), max(lengths)

    ends, longest = starts() if call.document_BT is None else _once(call.document_BT, "ends", starts)
    flat = [x.transpose(1, 2).reshape(rows * length, x.shape[1], size) for x in (query, key, value)]
    window = (-1, 0) if call.window is None else (call.window - 1, 0)
    made: Any = varlen_attn(
        flat[0],
        flat[1],
        flat[2],
        ends,
        ends,
        longest,
        longest,
        scale=call.scale,
        window_size=window,
        **groups,
    )
    return made.view(rows, length, heads, size).transpose(1, 2)


def flex(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, call: Call) -> torch.Tensor:
    """flex_attention, compiled, with a block mask that skips what lies outside of documents and window."""
    document_BT, window, length = call.document_BT, call.window, query.shape[2]
    make: Any = block_mask if document_BT is None else derived_block_mask
    mask = make(document_BT, window, length, query.device)
    return _compiled_flex()(query, key, value, block_mask=mask, scale=call.scale, enable_gqa=key.shape[1] != query.shape[1])


def derived_block_mask(document_BT: torch.Tensor, window: int | None, length: int, device: torch.device) -> Any:
    """`block_mask`, made once for all layers of a micro batch."""
    # a mask keeps what it is made of: of the documents themselves it would keep its own key in the table alive
    return _once(document_BT, ("blocks", window), lambda: block_mask(document_BT.clone(), window, length, device))


def block_mask(document_BT: torch.Tensor | None, window: int | None, length: int, device: torch.device) -> Any:
    """What flex_attention skips and what it masks."""
    from torch.nn.attention.flex_attention import create_block_mask

    def sees(b: Any, _: Any, q: Any, k: Any) -> Any:
        seen = q >= k
        if document_BT is not None:
            seen = seen & (document_BT[b, q] == document_BT[b, k])
        return seen if window is None else seen & (q - k < window)

    rows = None if document_BT is None else len(document_BT)
    return create_block_mask(sees, rows, None, length, length, device=str(device))


def segments(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, call: Call) -> torch.Tensor:
    """Each document by itself: work and memory grow with the documents' squares, not the row's. Padding becomes 0."""
    document_BT, rows = call.document_BT, []
    assert document_BT is not None
    for row, found in enumerate(_once(document_BT, "spans", lambda: spans(document_BT))):
        counts = [count for count, _ in found]
        cut = (x[row : row + 1].split(counts, 2) for x in (query, key, value))
        parts = []
        for q, k, v, (count, padding) in zip(*cut, found, strict=True):
            if padding:
                parts.append(torch.zeros_like(q))
                continue
            narrow = call.window is not None and call.window < count
            parts.append(_sdpa(q, k, v, call, seen(None, call.window, count, q.device) if narrow else None))
        rows.append(torch.cat(parts, 2))
    return torch.cat(rows)


def sdpa(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, call: Call) -> torch.Tensor:
    """scaled_dot_product_attention with a mask."""
    document_BT, length = call.document_BT, query.shape[2]
    if document_BT is None:
        return _sdpa(query, key, value, call, seen(None, call.window, length, query.device))
    mask = _once(document_BT, ("mask", call.window), lambda: seen(document_BT, call.window, length, document_BT.device))
    return _sdpa(query, key, value, call, mask)


_BACKENDS: dict[str, Callable[..., torch.Tensor]] = {"varlen": varlen, "flex": flex, "segments": segments, "sdpa": sdpa}


def seen(document_BT: torch.Tensor | None, window: int | None, length: int, device: torch.device) -> torch.Tensor:
    """Mask for scaled dot-product attention, bool [B or 1, 1, T, T]: a token sees itself and what its document said before.

    Padding is a document of its own: a row that may see nothing would become NaN.
    """
    if document_BT is None:
        seen_BTT = torch.ones(1, length, length, dtype=torch.bool, device=device)
    else:
        seen_BTT = document_BT[:, :, None] == document_BT[:, None, :]
    seen_BTT = seen_BTT.tril()
    if window is not None:
        seen_BTT = seen_BTT.triu(1 - window)
    return seen_BTT[:, None]


def spans(document_BT: torch.Tensor) -> list[list[tuple[int, bool]]]:
    """Length of each document of each row in order, and whether it is padding. Waits for the device."""
    found = []
    for row in document_BT.cpu():
        numbers, counts = torch.unique_consecutive(row, return_counts=True)
        found.append([(count, number < 0) for number, count in zip(numbers.tolist(), counts.tolist(), strict=True)])
    return found


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


def _once(document_BT: torch.Tensor, name: Any, make: Callable[[], Any]) -> Any:
    known = _DERIVED.setdefault(document_BT, {})
    if name not in known:
        known[name] = make()
    return known[name]
