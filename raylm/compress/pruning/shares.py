"""How many units of a width stay; known where there is no torch."""

from __future__ import annotations

from raylm.core.errors import ConfigError


def count(before: int, after: int | float, name: str) -> int:
    """How many of `before` units stay: that number, or that share. Raises ConfigError when these are more, or none."""
    kept = after if isinstance(after, int) else round(before * after)
    if not 0 < kept <= before:
        raise ConfigError(
            f"{name} = {after} of {before}: that leaves {kept}", next=f"give a number between 1 and {before}, or a share"
        )
    return kept
