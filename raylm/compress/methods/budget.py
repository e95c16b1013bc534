"""Which layers get how many bits: what each costs in divergence when it alone is rounded, and the best choice under a budget."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from raylm.compress.methods.grid import Grid

if TYPE_CHECKING:
    from raylm.compress.calibration import Calibration

BITS = (4, 8, 16)
# layers that engines compute as one matrix, and that must have the same format
FUSED = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
# calibration tokens on which the divergence is measured: once for each layer and format
MOST_TOKENS = 4096
# bytes of a tensor's entry in the head of a safetensors file, at most
ENTRY = 160


class Unit(NamedTuple):
    """Layers of one format."""

    names: tuple[str, ...]
    bytes: tuple[float, ...]
    """In each format of `BITS`."""
    cost: tuple[float, ...]
    """Mean KL per token where nothing else is rounded."""


class Choice(NamedTuple):
    """Bits of each layer, and what they come to."""

    bits: dict[str, int]
    bytes: float
    cost: float
    """Sum of what the layers cost alone."""


class Originals(NamedTuple):
    """Rows, and what enters the output head of the original for each."""

    rows: list[torch.Tensor]
    hidden: list[torch.Tensor]


def originals(model: Any, calibration: Calibration) -> Originals:
    """The first calibration rows, up to `MOST_TOKENS` tokens, with the original's predictions."""
    from raylm.compress.methods.distillation import head_inputs

    few = type(calibration)(calibration.rows[: max(1, MOST_TOKENS // max(len(row) for row in calibration.rows))])
    device = next(model.parameters()).device
    return Originals([row for batch in few.batches(device) for row in batch], head_inputs(model, few))


def divergence(model: Any, own: Originals) -> float:
    """Mean KL(original || model) per token."""
    from raylm.compress.methods.distillation import Divergence, predictor

    predict, total, count = predictor(model), 0.0, 0
    with torch.no_grad():
        for row, hidden in zip(own.rows, own.hidden, strict=True):
            given: Any = model(input_ids=row[None], use_cache=False).logits[0]
            found: Any = Divergence.apply(given, predict(hidden))
            total, count = total + float(found), count + len(row)
    return total / count


def units_of(model: Any, names: list[str], four: Grid, own: Originals) -> list[Unit]:
    """Layers by what engines fuse, with what each format costs; the model is as before then."""
    groups: dict[tuple[str, int], list[str]] = {}
    for name in names:
        parent, _, last = name.rpartition(".")
        fused = next((index for index, each in enumerate(FUSED) if last in each), None)
        groups.setdefault((parent, fused) if fused is not None else (name, -1), []).append(name)
    found = []
    for members in groups.values():
        layers = [model.get_submodule(name) for name in members]
        kept = [layer.weight.data for layer in layers]
        costs = []
        for grid in (four, Grid(8, half=True)):
            for layer, weight in zip(layers, kept, strict=True):
                scale = grid.search(weight)
                layer.weight.data = (grid.integers(weight.float(), scale) * grid.spread(scale, weight.shape[1])).to(weight.dtype)
            costs.append(divergence(model, own))
        for layer, weight in zip(layers, kept, strict=True):
            layer.weight.data = weight
        count, outputs = sum(weight.numel() for weight in kept), sum(len(weight) for weight in kept)
        # packed weights have a scale and their shape beside them
        entries = ENTRY * len(members)
        packed = count / 2 + 2 * count / (four.group_size or count) + (16 + ENTRY) * len(members)
        sizes = (packed + 2 * entries, count + 2 * outputs + 2 * entries, 2 * count + entries)
        found.append(Unit(tuple(members), tuple(map(float, sizes)), (*costs, 0.0)))
    return found


def choose(units: list[Unit], max_cost: float | None, max_bytes: float | None) -> Choice:
    """The fewest bytes whose summed cost is within `max_cost`; without that, the lowest cost within `max_bytes`.

    Greedy from 4 bits upwards by divergence per byte: the choice of the Lagrangian at one multiplier, up to one unit.
    """
    at = [0] * len(units)

    def total(what: str) -> float:
        return sum(getattr(unit, what)[place] for unit, place in zip(units, at, strict=True))

    while max_cost is None or total("cost") > max_cost:
        gains = [
            ((unit.cost[at[index]] - unit.cost[up]) / (unit.bytes[up] - unit.bytes[at[index]]), index, up)
            for index, unit in enumerate(units)
            for up in range(at[index] + 1, len(BITS))
            if max_cost is not None or max_bytes is None or total("bytes") + unit.bytes[up] - unit.bytes[at[index]] <= max_bytes
        ]
        gains = [each for each in gains if each[0] > 0]
        if not gains:
            break
        _, index, up = max(gains)
        at[index] = up
    bits = {name: BITS[place] for unit, place in zip(units, at, strict=True) for name in unit.names}
    return Choice(bits, total("bytes"), total("cost"))


def kept_bytes(model: Any, rounded: Any) -> float:
    """Bytes of what is not rounded, in 16 bits."""
    inside = {id(model.get_submodule(name).weight) for name in rounded}
    return float(sum(2 * p.numel() + ENTRY for p in model.parameters() if id(p) not in inside))
