"""Requests to a model under evaluation: which can be asked, from which seed, and where an answer ends."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

from raylm.core.errors import DataError
from raylm.evaluate.backends.backend import Answer
from raylm.inference.completions import Sampling

MOST_LEFT_OUT = 0.1
"""Share of texts that a grade may be without: what is left would no longer be what was asked for."""


def few(reasons: Sequence[str]) -> Counter[str]:
    """The reasons, counted. Raises DataError when they are too many."""
    if not reasons:
        raise DataError("there are no texts to ask about", next="raise held_out of the tokenize stage")
    left = Counter(reason for reason in reasons if reason)
    if left.total() > MOST_LEFT_OUT * len(reasons):
        raise DataError(f"no grade: {counted(left, len(reasons))}", next="look at the model and at the rows")
    return left


def too_long(row: Any, most: int | None) -> str:
    """Why a row cannot be asked about; "" where it can."""
    if len(row) == 0:
        return "empty"
    if most is not None and not isinstance(row, str) and not isinstance(row[0], dict) and len(row) > most:
        return f"longer than the {most} tokens that the model has room for"
    return ""


def stopped(answer: Answer, sampling: Sampling) -> Answer:
    """The answer up to the first stop text."""
    places = [at for stop in getattr(sampling, "stop", ()) if stop and (at := answer.text.find(stop)) >= 0]
    return answer._replace(text=answer.text[: min(places)], finish="stop") if places else answer


def seed_of(key: str) -> int:
    """A seed of a prompt's own: its draw depends on no other prompt, nor on which were answered before."""
    return int(hashlib.blake2b(key.encode(), digest_size=4).hexdigest(), 16) % 2**31


def counted(left: Counter[str], asked: int) -> str:
    """The reasons in words. Example: "2 of 12 texts empty"."""
    return ", ".join(f"{count} of {asked} texts {reason}" for reason, count in sorted(left.items()))
