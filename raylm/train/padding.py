"""Decides, on all ranks alike, whether micro batches are laid without padding (`raylm.data.padding_free`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from raylm.core.config import card_kind
from raylm.core.errors import ConfigError
from raylm.data.kinds import ROW_KINDS

if TYPE_CHECKING:
    from raylm.parallel.engine import Engine
    from raylm.train.config import Train


class PaddingFree:
    """What was asked, and what speaks against it.

    Args:
        cfg: the stage, its objective resolved.
        rows_kind: kind of its rows.
    """

    def __init__(self, cfg: Train, rows_kind: str) -> None:
        self._named = cfg.padding_free is True
        self._wanted = self._named or (cfg.padding_free == "auto" and ROW_KINDS[rows_kind].padding_free)
        self._reason = self._refused(cfg) if self._wanted else None

    def look_at(self, model: Any) -> None:
        """Look whether `model`, whole and on this rank, takes such rows. Raises ConfigError where they were asked for by name."""
        from raylm.model.leaks import refused_prefixes

        if self._wanted and self._reason is None:
            self._reason = refused_prefixes(model)
        self._check()

    def agreed(self, engine: Engine, say: Callable[[str], None]) -> bool:
        """What all ranks do. Every rank must call; the first one has looked at the model.

        Raises:
            ConfigError: they were asked for by name, and this layout cannot take them.
        """
        if self._wanted and self._reason is None and engine.context is not None and engine.context.ring:
            self._reason = "around a ring of context ranks no two sequences share what they begin with"
        self._check()
        if not self._wanted:
            return False
        (refused,) = engine.most([float(self._reason is not None)])
        if self._reason and engine.rank == 0:
            say(f"micro batches are padded: {self._reason}")
        return not refused

    def _refused(self, cfg: Train) -> str | None:
        objective: Any = cfg.objective
        if not _takes(objective):
            return f"objective {card_kind(objective)} takes one sequence a row"
        return "`balance` is of whole rows" if cfg.balance else None

    def _check(self) -> None:
        if self._named and self._reason:
            raise ConfigError(f"padding_free cannot be: {self._reason}", next='padding_free = "auto"')


def _takes(objective: Any) -> bool:
    """Whether the objective says `padding_free`, and means the loss that it has: who writes another loss upon one of these cards
    may sum over rows, and has to say it again."""
    classes = type(objective).__mro__
    said, loss = (next(at for at, each in enumerate(classes) if name in vars(each)) for name in ("padding_free", "loss"))
    return objective.padding_free and (said <= loss or classes[loss].__module__.startswith("raylm."))
