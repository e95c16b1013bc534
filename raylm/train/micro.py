"""Finds how many rows of full length fit in one forward and backward pass.

Two small passes are measured; memory grows linearly in rows, so the line through both says how many fit.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from raylm.core.errors import PlacementError
from raylm.data.kinds import ROW_KINDS
from raylm.train.objectives.objective import Passes

if TYPE_CHECKING:
    from raylm.parallel.engine import Engine

# of what is free; the rest is for gathered weights, the allocator's rounding and other work on the machine
USED = {"cuda": 0.85, "cpu": 0.5}


def find_micro(
    engine: Engine,
    objective: Any,
    *,
    kind: str,
    length: int,
    vocab_size: int,
    most: int,
    free: int | None = None,
    padding_free: bool = False,
) -> int:
    """Rows (or pairs) per forward pass and rank, the same on every rank; at most `most`.

    Args:
        length: tokens of the longest row.
        most: this rank's share of a batch: more would only be padding.
        padding_free: how micro batches are laid.
        free: bytes that activations may take; measured when absent.

    Raises:
        PlacementError: not even one row fits.
    """
    one, two = (_bytes_of(engine, objective, kind, length, vocab_size, rows, padding_free) for rows in (1, 2))
    each = max(two - one, 1)
    room = _free(engine) if free is None else free
    # the first stage of a pipeline holds the activations of as many micro batches as there are stages
    held = engine.grid.mesh.pipeline
    one, each = one * held, each * held
    # every rank must come to the same number: the one with the least room decides
    fits = -int(engine.most([-((room - one) // each + 1)])[0])
    if fits < 1:
        raise PlacementError(
            f"one row of {length} tokens takes {one / 1e9:.2f} GB of activations, {room / 1e9:.2f} GB are free",
            next="shorter rows, activation_checkpointing = 'full', or more ranks per row (mesh.tensor, mesh.context)",
        )
    return min(fits, most)


def _bytes_of(
    engine: Engine, objective: Any, kind: str, length: int, vocab_size: int, rows: int, padding_free: bool = False
) -> int:
    """Bytes that a forward and backward pass over `rows` rows holds at its peak, beyond weights."""
    import torch

    of = ROW_KINDS[kind]
    longest = [of.longest(length, vocab_size)] * rows
    batch = of.collate(longest, [1.0] * rows, 0, engine.device, padding_free=padding_free)
    if "mismatched" in objective.needs:
        batch = batch._replace(mismatched=batch)
    # the frozen start makes what a pass without gradients makes, and so does a teacher
    passes = Passes(engine.forward, engine.forward, engine.sum, engine.forward)
    (batch,) = objective.complete([batch], passes)
    inputs = [objective.inputs(batch, 0)]
    (prepared,) = objective.prepare([batch], inputs, passes)

    def loss(index: int, scores: Any) -> Any:
        return objective.loss(scores, inputs[index], batch, prepared)

    if engine.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(engine.device)
        before = torch.cuda.memory_allocated(engine.device)
        engine.accumulate(inputs, loss, objective.asks())
        found = torch.cuda.max_memory_allocated(engine.device) - before
    else:
        with _Kept() as kept:
            engine.accumulate(inputs, loss, objective.asks())
        found = kept.num_bytes
    engine.clear()
    return found


class _Kept:
    """Counts the bytes that autograd keeps for the backward pass; the host's allocator tells no peak."""

    def __enter__(self) -> _Kept:
        import torch

        self._seen: dict[int, int] = {}
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._count, lambda tensor: tensor)
        self._hooks.__enter__()
        return self

    def __exit__(self, *said: Any) -> None:
        self._hooks.__exit__(*said)

    @property
    def num_bytes(self) -> int:
        return sum(self._seen.values())

    def _count(self, tensor: Any) -> Any:
        local = tensor.to_local() if hasattr(tensor, "to_local") else tensor
        if not getattr(tensor, "is_leaf", False) or not tensor.requires_grad:
            storage = local.untyped_storage()
            self._seen[storage.data_ptr()] = storage.nbytes()
        return tensor


def _free(engine: Engine) -> int:
    """Bytes that activations may take on this rank."""
    import torch

    if engine.device.type == "cuda":
        # what the passes that were measured have left in the allocator is free too
        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info(engine.device)
        # the optimizer makes its state at the first step; gradients are part of what was measured
        state = sum(2 * 4 * _numel(p) for _, p in engine.trainable())
        return int(USED["cuda"] * (free - state))
    pages = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return int(USED["cpu"] * pages / max(1, min(engine.world, os.cpu_count() or 1)))


def _numel(parameter: Any) -> int:
    return (parameter.to_local() if hasattr(parameter, "to_local") else parameter).numel()
