"""Finds the words of each turn in the text that a chat template rendered.

turns -> rendered twice, plain and with a mark inside each turn -> equal but for the marks? -> places

A search for the words alone would find an answer "a" in the header before it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

from raylm.core.errors import DataError
from raylm.data.messages import Dialogue

Render = Callable[[Dialogue], str]

# private use characters: no text has a reason to hold them
_OPEN, _CLOSE = "\ue0f0", "\ue0f1"
_MARK = re.compile(f"{_OPEN}(\\d+){_CLOSE}")
_THOUGHT = "</think>"
# where the mark of a turn stands, and whether an empty answer has one. A template may look at how a text begins or ends, a mark
# in the middle may part a word that it looks for, and it may treat an empty answer differently from one that says something
_MARK_POSITIONS = ((0.5, True), (1.0, True), (0.5, False))


class Place(NamedTuple):
    """Where a turn's words stand in the rendered text: [begin, end), without white space around them.

    `kept` is `end` with the white space behind the words, where the template keeps it. `begin` is behind a `<think>` block.
    """

    turn: int
    role: str
    begin: int
    end: int
    kept: int


def places(render: Render, turns: Dialogue, text: str) -> list[Place]:
    """The places of all turns that say something, in the order of the text.

    Args:
        render: renders turns as `text` was rendered from these.

    Raises:
        DataError: a turn's words are not in the text, or the text contains the mark characters.
    """
    if _OPEN in text:
        raise DataError("private_use_character", next=f"{_OPEN!r} and {_CLOSE!r} cannot stand in a message")
    for share, empties in _MARK_POSITIONS:
        marks = [_mark(turn, number, share, empties) for number, turn in enumerate(turns)]
        try:
            marked = render([{**turn, "content": mark[0]} for turn, mark in zip(turns, marks, strict=True)])
        except DataError:
            continue
        if _MARK.sub("", marked) == text:
            break
    else:
        raise DataError("template_reads_text", next="this template renders a turn by what it says; its words cannot be placed")
    starts: dict[int, int] = {}
    removed = 0
    for mark in _MARK.finditer(marked):
        number = int(mark[1])
        if number in starts:
            raise DataError(f"template_repeats: {turns[number]['role'][:40]}")
        starts[number] = mark.start() - removed
        removed += len(mark[0])
    placed = [_place(turns, number, mark[1], starts, text) for number, mark in enumerate(marks) if mark[1] is not None]
    spoken = [place for place in sorted(placed, key=lambda place: place.end) if place.role not in ("system", "developer")]
    if any(one.turn > other.turn for one, other in pairwise(spoken)):
        raise DataError("template_reorders_turns")
    placed.sort(key=lambda place: place.end)
    _check_thoughts(turns, placed, text)
    return placed


class _Words(NamedTuple):
    """A turn's words before and behind its mark, and the white space behind them."""

    left: str
    right: str
    space: str


def _mark(turn: dict[str, str], number: int, share: float, empties: bool) -> tuple[str, _Words | None]:
    """(content with its mark, words around the mark); no words where the turn has no mark."""
    content, mark = turn["content"], f"{_OPEN}{number}{_CLOSE}"
    spoken, at = content.rstrip(), 0
    if not spoken:
        return (mark, _Words("", "", "")) if empties and turn["role"] == "assistant" else (content, None)
    if turn["role"] == "assistant" and _THOUGHT in spoken and not spoken.endswith(_THOUGHT):
        at = spoken.rindex(_THOUGHT) + len(_THOUGHT)
    at += len(spoken) - at - len(spoken[at:].lstrip())
    cut = at + max(1, int((len(spoken) - at) * share))
    words = _Words(spoken[at:cut], spoken[cut:], content[len(spoken) :])
    return content[:cut] + mark + content[cut:], words


def _place(turns: Dialogue, number: int, words: _Words, starts: dict[int, int], text: str) -> Place:
    role = turns[number]["role"]
    at = starts.get(number)
    for left, right in (words[:2], (_escaped(words.left), _escaped(words.right))):
        if at is not None and text.startswith(right, at) and text.endswith(left, 0, at):
            end = at + len(right)
            kept = end + len(words.space) if text.startswith(words.space, end) else end
            return Place(number, role, at - len(left), end, kept)
    raise DataError(
        f"template_leaves_out: {role[:40]}", next="name the turns' roles as the template does, or take one that has them"
    )


def _escaped(words: str) -> str:
    """As a template writes a tool's message into JSON."""
    return json.dumps(words, ensure_ascii=False)[1:-1]


def _check_thoughts(turns: Dialogue, placed: Sequence[Place], text: str) -> None:
    """Raise DataError where words before a turn's last `</think>` are lost: thoughts of turns before the last question may be."""
    last_question = max((number for number, turn in enumerate(turns) if turn["role"] == "user"), default=-1)
    before = 0
    for place in placed:
        content, seen = turns[place.turn]["content"], text[before : place.begin]
        before = place.end
        if place.role != "assistant" or _THOUGHT not in content:
            continue
        for part in content.split(_THOUGHT)[:-1]:
            spoken, opened, thought = part.partition("<think>")
            spoken, thought = (spoken, thought) if opened else ("", part)
            if spoken.strip() not in seen or (place.turn > last_question and thought.strip() not in seen):
                raise DataError(
                    "template_leaves_out: thinking", next="this template drops <think> blocks; take one that keeps them"
                )
