"""What every checker has: it says of the answer to a question how right it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ClassVar, NamedTuple

from raylm.core.config import Config
from raylm.data.answers import final
from raylm.evaluate.items import Item


class Checked(NamedTuple):
    """1 for a right answer, 0 for a wrong one, between them where it is right in part; and why."""

    value: float
    why: str


Check = Callable[[str, Item], Checked]


class Checker(Config):
    """A card of `checker`."""

    votes: ClassVar[bool] = True
    """Whether several answers to a question can agree: what self_consistency needs."""

    def unchecked(self, item: Item) -> str:
        """Why answers to this question cannot be checked; "" where they can."""
        return "" if item.ground_truth else "without a ground truth"

    def missing(self) -> str:
        """What this machine lacks to check answers, and how it is had; "" for nothing."""
        return ""

    @contextmanager
    def checking(self) -> Iterator[Check]:
        """The check itself, with what it holds while it is used."""
        yield self.check

    def check(self, text: str, item: Item) -> Checked:
        """How right `text` is."""
        raise NotImplementedError

    def said(self, text: str) -> str:
        """What an answer comes to: two answers with the same words here agree."""
        return final(text).strip().casefold()
