"""The `custom` reward: somebody else's card, weighed and named here."""

from __future__ import annotations

from pydantic import Field

from raylm.core.config import CustomCard


class Custom(CustomCard):
    """A reward of another package: `path` names a class with one of the methods that `Reward` describes."""

    weight: float = Field(default=1.0, allow_inf_nan=False)
    """What its scores are multiplied by before they are added to the others'."""
    name: str | None = Field(default=None, pattern=r"^[A-Za-z][A-Za-z0-9_.-]*$")
    """What its scores are reported as; the class's kind, or its name, where nothing is said."""
