"""Ring attention: queries stay on their rank, keys and values pass from rank to rank.

Ring attention (https://arxiv.org/abs/2310.01889): each rank keeps its queries, merges the outputs over blocks of keys by the
log-sum-exp of their scores, and needs memory for its own tokens alone. In the backward pass the gradients of keys travel with
them. A row is split into 2 C pieces; rank r has pieces r and 2 C - 1 - r, so that every rank sees as many keys (zig-zag).

Shapes: B rows, H query heads, G key and value heads, t tokens of a rank, K size of a head, C ranks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from raylm.model.attention_backends import Call, uncompiled
from raylm.parallel.context.ring_blocks import Block, backward, forward

CHUNK = 1024
"""Tokens of a block that needs a mask."""


class Ring(NamedTuple):
    """How a row is split over the ranks of a ring."""

    group: Any
    length: int
    """Tokens of the row, a multiple of 2 C."""
    document_BT: torch.Tensor | None = None
    """Documents of the whole row."""
    number_BT: torch.Tensor | None = None
    """The same on the host, padding after all others: which blocks are empty is decided without waiting for a device."""

    def pieces(self, rank: int) -> tuple[int, int]:
        """Where in the row the two pieces of a rank begin."""
        piece, ranks = self.length // (2 * self.group.size()), self.group.size()
        return rank * piece, (2 * ranks - 1 - rank) * piece

    def order(self) -> torch.Tensor:
        """Position in the row of each token, ranks one after the other, int64 [T]."""
        piece = torch.arange(self.length // (2 * self.group.size()))
        return torch.cat([start + piece for rank in range(self.group.size()) for start in self.pieces(rank)])

    @uncompiled
    def attend(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, call: Call) -> torch.Tensor:
        """[B, H, t, K] from [B, H, t, K] and twice [B, G, t, K]."""
        out: Any = _Attend.apply(query, key, value, self, call)
        return out

    def blocks(self, of: int, call: Call, device: torch.device) -> Iterator[tuple[slice, slice, Block]]:
        """Queries of this rank, keys of rank `of` and their block, for each pair of pieces where a query sees a key.

        Slices are positions among the tokens of a rank.
        """
        size = self.length // (2 * self.group.size())
        limited = self.document_BT is not None or call.window is not None
        step = min(size, CHUNK) if limited else size
        for half, queries in enumerate(self.pieces(self.group.rank())):
            for other, keys in enumerate(self.pieces(of)):
                for q in range(queries, queries + size, step):
                    for k in range(keys, min(keys + size, q + 1), step):
                        q_end, k_end = min(q + step, queries + size), min(k + step, keys + size)
                        block = self._block((q, q_end), (k, k_end), call, device)
                        if block is not None:
                            q_at, k_at = half * size - queries, other * size - keys
                            yield slice(q + q_at, q_end + q_at), slice(k + k_at, k_end + k_at), block

    def send_receive(self, x: torch.Tensor) -> tuple[torch.Tensor, list[Any]]:
        """Start sending `x` to the next rank; returns the buffer for the previous rank's, and the works to wait for."""
        ranks, rank = self.group.size(), self.group.rank()
        got = torch.empty_like(x)
        after, before = (dist.get_global_rank(self.group, (rank + by) % ranks) for by in (1, -1))
        ops = [dist.P2POp(dist.isend, x, after, self.group), dist.P2POp(dist.irecv, got, before, self.group)]
        return got, dist.batch_isend_irecv(ops)

    def _block(self, queries: tuple[int, int], keys: tuple[int, int], call: Call, device: Any) -> Block | None:
        (q, q_end), (k, k_end) = queries, keys
        narrow = call.window is not None and q_end - 1 - k >= call.window
        if call.window is not None and q - (k_end - 1) >= call.window:
            return None
        crossed = False
        if self.number_BT is not None:
            # numbers rise along a row: the last of the keys against the first of the queries, and the outer ends
            if q != k and not bool((self.number_BT[:, k_end - 1] == self.number_BT[:, q]).any()):
                return None
            crossed = not bool((self.number_BT[:, k] == self.number_BT[:, q_end - 1]).all())
        if not narrow and not crossed:
            return Block(q == k, call.scale)
        return Block(False, call.scale, self._seen(queries, keys, call.window, device))

    def _seen(self, queries: tuple[int, int], keys: tuple[int, int], window: int | None, device: torch.device) -> torch.Tensor:
        q, k = torch.arange(*queries, device=device)[:, None], torch.arange(*keys, device=device)
        seen = (q >= k)[None]
        if window is not None:
            seen = seen & (q - k < window)
        if self.document_BT is not None:
            seen = seen & (self.document_BT[:, slice(*queries), None] == self.document_BT[:, None, slice(*keys)])
        return seen


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, ring: Ring, call: Call) -> torch.Tensor:
        query = query.contiguous()
        wide = torch.promote_types(query.dtype, torch.float32)
        out = torch.zeros(query.shape, dtype=wide, device=query.device)
        # no -inf: it would make the first merge NaN
        lse = torch.full(query.shape[:3], torch.finfo(wide).min / 2, dtype=wide, device=query.device)
        held = torch.stack((key, value))
        ranks, rank = ring.group.size(), ring.group.rank()
        for step in range(ranks):
            incoming = ring.send_receive(held) if step < ranks - 1 else None
            for q, k, block in ring.blocks((rank - step) % ranks, call, query.device):
                _merge(out[:, :, q], lse[:, :, q], *forward(query[:, :, q], held[0][:, :, k], held[1][:, :, k], block))
            if incoming is not None:
                held = _arrived(*incoming)
        out = out.to(query.dtype)
        ctx.save_for_backward(query, key, value, out, lse)
        ctx.ring, ctx.call = ring, call
        return out

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Any, ...]:
        query, key, value, out, lse = ctx.saved_tensors
        ring, call, upstream = ctx.ring, ctx.call, grads[0].contiguous()
        wide = lse.dtype
        dq = torch.zeros(query.shape, dtype=wide, device=query.device)
        held = torch.stack((key, value))
        # gradients of the keys held now; they follow their keys one step later, and arrive home at the end
        dheld = torch.zeros(held.shape, dtype=wide, device=query.device)
        ranks, rank = ring.group.size(), ring.group.rank()
        for step in range(ranks):
            incoming = ring.send_receive(held) if step < ranks - 1 else None
            for q, k, block in ring.blocks((rank - step) % ranks, call, query.device):
                seen = (query[:, :, q], held[0][:, :, k], held[1][:, :, k])
                gradients = backward(upstream[:, :, q], *seen, out[:, :, q], lse[:, :, q].contiguous(), block)
                for total, part in zip((dq[:, :, q], dheld[0][:, :, k], dheld[1][:, :, k]), gradients, strict=True):
                    total += part
            dheld = _arrived(*ring.send_receive(dheld))
            if incoming is not None:
                held = _arrived(*incoming)
        return dq.to(query.dtype), dheld[0].to(key.dtype), dheld[1].to(value.dtype), None, None


def _merge(out: torch.Tensor, lse: torch.Tensor, new_out: torch.Tensor, new_lse: torch.Tensor) -> None:
    """Merge the output over more keys into `out` and `lse`, in place."""
    both = torch.logaddexp(lse, new_lse)
    out.mul_((lse - both).exp_()[..., None]).add_(new_out * (new_lse - both).exp_()[..., None])
    lse.copy_(both)


def _arrived(got: torch.Tensor, works: list[Any]) -> torch.Tensor:
    for work in works:
        work.wait()
    return got
