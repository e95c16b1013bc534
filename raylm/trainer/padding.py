"""Decides, on all ranks alike, whether micro batches are laid without padding (`raylm.data.padding_free`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from raylm.core.errors import ConfigError

if TYPE_CHECKING:
    from raylm.parallel.engine import Engine


class PaddingFree:
    """What was asked, and what speaks against it.

    Args:
        asked: the key `padding_free`.
        fits: whether `auto` would take it.
        refused: why the stage cannot, as far as its config says.
    """

    def __init__(self, asked: bool | Literal["auto"], fits: bool, refused: str | None) -> None:
        self._named = asked is True
        self._wanted = self._named or (asked == "auto" and fits)
        self._reason = refused if self._wanted else None

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

    def _check(self) -> None:
        if self._named and self._reason:
            raise ConfigError(f"padding_free cannot be: {self._reason}", next='padding_free = "auto"')
