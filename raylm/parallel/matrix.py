"""The support matrix: which combinations of a layout are proven or refused, and the table that the docs show.

The cells are data, `matrix.toml`: each names a combination, its status and the test that proves it.
"""

from __future__ import annotations

import tomllib
from functools import lru_cache
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from raylm.core.config import card_kind

# a combination of these must be proven pair by pair; all else is allowed unless a cell refuses it
STRATEGIES = ("ddp", "fsdp", "deepspeed")
DIMENSIONS = ("replicas", "tensor", "context", "pipeline", "expert")


class Cell(NamedTuple):
    """One combination: `works` has a proof (a test), `refused` a reason."""

    of: frozenset[str]
    status: str
    proof: str
    why: str


@lru_cache
def cells() -> tuple[Cell, ...]:
    """All cells of `matrix.toml`, in order."""
    entries = tomllib.loads((Path(__file__).parent / "matrix.toml").read_text())["cell"]
    return tuple(Cell(frozenset(one["of"]), one["status"], one.get("proof", ""), one.get("why", "")) for one in entries)


def features(cfg: Any) -> set[str]:
    """What a training stage combines: strategy, dimensions above 1, and the keys that change how it computes."""
    combined = {card_kind(cfg.strategy), cfg.dtype, card_kind(cfg.optimizer)}
    combined |= {name for name in DIMENSIONS if getattr(cfg.mesh, name) > 1}
    combined |= {name for name in ("adapter", "balance", "document_mask", "compile", "ema") if getattr(cfg, name, None)}
    combined |= {f"{name}_{getattr(cfg, name)}" for name in ("activation_checkpointing", "attention") if getattr(cfg, name, None)}
    if objective := getattr(cfg, "objective", None):
        combined.add(card_kind(objective))
    combined |= {*getattr(getattr(cfg, "adapter", None), "features", ())}
    if getattr(getattr(cfg, "adapter", None), "use_dora", False):
        combined.add("dora")
    if not getattr(cfg.optimizer, "elementwise", True):
        combined.add("whole_tensors")
    if cfg.mesh.tensor > 1 and cfg.mesh.sequence:
        combined.add("sequence")
    if cfg.mesh.pipeline > 1:
        combined.add(cfg.mesh.schedule)
    return combined


def refusal(combined: set[str]) -> str | None:
    """Why this combination is not run: a cell refuses it, or no test proves two of its parts together."""
    for cell in cells():
        if cell.status == "refused" and cell.of <= combined:
            return f"{' x '.join(sorted(cell.of))}: {cell.why}"
    proven = [cell.of for cell in cells() if cell.status == "works"]
    laid = sorted(combined & {*STRATEGIES, *DIMENSIONS})
    for pair in combinations(laid, 2):
        if not any(of.issuperset(pair) for of in proven):
            return f"{' x '.join(pair)}: no test proves these together yet"
    return None


def unproven(combined: set[str]) -> bool:
    """Whether more than two dimensions meet that no single test has seen together; each pair of them is proven."""
    laid = combined & {*STRATEGIES, *DIMENSIONS}
    return len(laid) > 2 and not any(cell.of >= laid for cell in cells() if cell.status == "works")


def as_markdown() -> str:
    """The matrix as a table, for the docs."""
    lines = ["| combination | status | proof or reason |", "|---|---|---|"]
    for cell in cells():
        proof = f"`{cell.proof}`" if cell.status == "works" else cell.why
        lines.append(f"| {' x '.join(sorted(cell.of, key=_place))} | {cell.status} | {proof} |")
    return "\n".join(lines) + "\n"


def _place(name: str) -> tuple[int, str]:
    known = (*STRATEGIES, *DIMENSIONS)
    return (known.index(name) if name in known else len(known), name)
