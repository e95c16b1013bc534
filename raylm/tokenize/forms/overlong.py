"""What becomes of a dialogue that is longer than a row: dropped, truncated on the left or right, or split.

Truncation on the left leaves out the oldest exchanges (a question and what follows it), then the first words of the question that
is left; system turns and tools stay. What is left is rendered anew, so that every row is a whole dialogue with its headers.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from raylm.core.errors import DataError
from raylm.data.messages import Dialogue

Overlong = Literal["drop", "truncate_left", "truncate_right", "split"]
OverlongPrompt = Literal["drop", "truncate_left"]
# share of a row that a later part of a split exchange repeats before its own tokens
_CONTEXT = 4

Size = Callable[[Dialogue], int]
"""Tokens of turns as they are rendered."""


class Part(NamedTuple):
    """Tokens of a row and their mask, and how many there were before it was truncated."""

    tokens: list[int]
    mask: list[int]
    whole: int


def shortened(turns: Dialogue, size: Size, length: int, offsets: Callable[[str], Sequence[tuple[int, int]]]) -> Dialogue:
    """The turns less those on the left that are too many for `length` tokens.

    Args:
        offsets: the characters of each token of a text.

    Raises:
        DataError: too_long, where the last answer with a word of its question is.
    """
    lead, exchanges = _exchanges(turns)
    kept = [lead + _flat(exchanges[first:]) for first in range(len(exchanges))]
    # the fewest exchanges that must go
    first = bisect_left(range(len(kept)), True, key=lambda at: size(kept[at]) <= length)
    if first < len(kept):
        return kept[first]
    return _cut_question(kept[-1] if kept else turns, len(lead), size, length, offsets)


def exchanges_in(turns: Dialogue, size: Size, length: int) -> list[Dialogue]:
    """The turns in parts of whole exchanges, each behind the system turns and of at most `length` tokens, or one exchange."""
    lead, exchanges = _exchanges(turns)
    parts: list[list[Dialogue]] = []
    for exchange in exchanges:
        if parts and size(lead + _flat([*parts[-1], exchange])) <= length:
            parts[-1].append(exchange)
        else:
            parts.append([exchange])
    # what is learned of the system turns is learned once
    again = [{**turn, "weight": 0} for turn in lead]
    return [(again if number else lead) + _flat(part) for number, part in enumerate(parts)]


def windows(tokens: list[int], mask: list[int], length: int) -> list[Part]:
    """An exchange that is longer than a row, in rows; each token is learned in one of them.

    A later row begins with the tokens before its own, a quarter of a row, which are not learned again: no learned token stands
    first, where nothing predicts it. Rows in which nothing is learned are left out.
    """
    parts, at, context = [], 0, 0
    while at < len(tokens):
        end = min(len(tokens), at - context + length)
        parts.append(Part(tokens[at - context : end], [0] * context + mask[at:end], end - at))
        at, context = end, max(1, length // _CONTEXT)
    return [part for part in parts if any(part.mask)]


def _exchanges(turns: Dialogue) -> tuple[Dialogue, list[Dialogue]]:
    """(system turns at the beginning, exchanges): one begins where a user speaks, the first one with whoever does."""
    led = next((at for at, turn in enumerate(turns) if turn["role"] not in ("system", "developer")), len(turns))
    starts = [
        at for at in range(led, len(turns)) if at == led or (turns[at]["role"] == "user" and turns[at - 1]["role"] != "user")
    ]
    return turns[:led], [turns[at:end] for at, end in zip(starts, [*starts[1:], len(turns)], strict=True)]


def _flat(parts: Sequence[Dialogue]) -> Dialogue:
    return [turn for part in parts for turn in part]


def _cut_question(
    turns: Dialogue, at: int, size: Size, length: int, offsets: Callable[[str], Sequence[tuple[int, int]]]
) -> Dialogue:
    """The turns with the first words of turn `at` left out."""
    if at < len(turns) and turns[at]["role"] == "user":
        words = turns[at]["content"]
        spans, cut, kept = offsets(words), 0, turns
        while (excess := size(kept) - length) > 0 and (cut := cut + excess) < len(spans):
            kept = [*turns[:at], {**turns[at], "content": words[spans[cut][0] :]}, *turns[at + 1 :]]
        if excess <= 0:
            return kept
    raise DataError("too_long")
