"""Whether the objective of a train stage takes micro batches without padding."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from raylm.core.config import card_kind
from raylm.data.kinds import ROW_KINDS
from raylm.trainer import padding

if TYPE_CHECKING:
    from raylm.train.config import Train


class PaddingFree(padding.PaddingFree):
    """What was asked, and what speaks against it.

    Args:
        cfg: the stage, its objective resolved.
        rows_kind: kind of its rows.
    """

    def __init__(self, cfg: Train, rows_kind: str) -> None:
        super().__init__(cfg.padding_free, ROW_KINDS[rows_kind].padding_free, _refused(cfg))


def _refused(cfg: Train) -> str | None:
    objective: Any = cfg.objective
    if not _takes(objective):
        return f"objective {card_kind(objective)} takes one sequence a row"
    return "`balance` is of whole rows" if cfg.balance else None


def _takes(objective: Any) -> bool:
    """Whether the objective says `padding_free`, and means the loss that it has: who writes another loss upon one of these cards
    may sum over rows, and has to say it again."""
    classes = type(objective).__mro__
    said, loss = (next(at for at, each in enumerate(classes) if name in vars(each)) for name in ("padding_free", "loss"))
    return objective.padding_free and (said <= loss or classes[loss].__module__.startswith("raylm."))
