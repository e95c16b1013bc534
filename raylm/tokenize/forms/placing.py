"""Finds the words of each turn in the text that a chat template rendered.

turns -> rendered twice, plain and with a mark inside each string -> equal but for the marks? -> places

A search for the words alone would find an answer "a" in the header before it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

from raylm.core.errors import DataError
from raylm.data.messages import Dialogue, Message
from raylm.tokenize.forms.pieces import (
    CALLS,
    CONTENT,
    KEY,
    NAME,
    REASONING,
    check_names,
    check_order,
    check_scalars,
    each_string,
    leaves_out,
)

Render = Callable[[Dialogue], str]

# private use characters: no text has a reason to hold them
_OPEN, _CLOSE = "\ue0f0", "\ue0f1"
_MARK = re.compile(f"{_OPEN}(\\d+){_CLOSE}")
_THOUGHT = "</think>"
# where the mark of a turn stands, whether an empty answer has one, and whether the keys of arguments have. A template may look at
# how a text begins or ends, a mark in the middle may part a word that it looks for, it may treat an empty answer differently from
# one that says something, and it may sort arguments by their keys
_MARKINGS = ((0.5, True, True), (1.0, True, True), (0.5, False, True), (0.5, True, False), (0.5, False, False))


class Place(NamedTuple):
    """Where a turn's words stand in the rendered text: [begin, end), without white space around them.

    `begin` is that of its thoughts, where they have a key of their own, and behind a `<think>` block in the words. `end` is that
    of its last call. `kept` is `end` with the white space behind the words, where the template keeps it.
    """

    turn: int
    role: str
    begin: int
    end: int
    kept: int
    spoken: int
    """Where words or calls begin behind the thoughts."""
    thought: int = -1
    """Where the thoughts of `reasoning_content` end; -1 without any in the text."""
    calls: bool = False
    """Whether the turn calls tools."""


class Placed(NamedTuple):
    """Places of the turns that say something, in the order of the text; turns whose thoughts are not in it, and what they are."""

    places: list[Place]
    lost: dict[int, str]


class _Piece(NamedTuple):
    """A marked string of a turn: its words before and behind the mark, and the white space behind them."""

    turn: int
    part: str
    left: str
    right: str
    space: str


def places(render: Render, turns: Dialogue, text: str) -> Placed:
    """The places of all turns that say something.

    Args:
        render: renders turns as `text` was rendered from these.

    Raises:
        DataError: a turn's words, calls or name are not in the text, or the text contains the mark characters.
    """
    if _OPEN in text:
        raise DataError("private_use_character", next=f"{_OPEN!r} and {_CLOSE!r} cannot stand in a message")
    pieces, marked = _marked(render, turns, text)
    starts: dict[int, int] = {}
    removed = 0
    for mark in _MARK.finditer(marked):
        number = int(mark[1])
        piece = pieces[number]
        if number in starts and piece.part in (CONTENT, REASONING):
            raise DataError(f"template_repeats: {turns[piece.turn]['role'][:40]}")
        # a name may be said again, in the header of the tool that answers
        starts.setdefault(number, mark.start() - removed)
        removed += len(mark[0])
    placed, lost, named = [], {}, set()
    for turn in range(len(turns)):
        found = {at: _span(piece, starts.get(at), text) for at, piece in enumerate(pieces) if piece.turn == turn}
        for at, span in found.items():
            if span is None:
                _missing(turns[turn], pieces[at], lost)
            elif pieces[at].part == NAME:
                named.add(turn)
        spans = [(pieces[at], span) for at, span in found.items() if span is not None and pieces[at].part != NAME]
        if spans:
            placed.append(_place(turn, turns[turn], spans, text))
    check_names(turns, named)
    check_order(turns, text)
    spoken = [place for place in sorted(placed, key=lambda place: place.end) if place.role not in ("system", "developer")]
    if any(one.turn > other.turn for one, other in pairwise(spoken)):
        raise DataError("template_reorders_turns")
    placed.sort(key=lambda place: place.end)
    _check_scalars(turns, placed, text)
    _find_lost(turns, placed, text, lost)
    return Placed(placed, lost)


def _marked(render: Render, turns: Dialogue, text: str) -> tuple[list[_Piece], str]:
    """(the strings that have marks, the text with these marks in it)."""
    for share, empties, keys in _MARKINGS:
        pieces: list[_Piece] = []
        marked_turns = [_marked_turn(turn, number, pieces, share, empties, keys) for number, turn in enumerate(turns)]
        try:
            marked = render(marked_turns)
        except DataError:
            continue
        if _MARK.sub("", marked) == text:
            return pieces, marked
        if not keys and not empties:
            break
    raise DataError("template_reads_text", next="this template renders a turn by what it says; its words cannot be placed")


def _marked_turn(turn: Message, number: int, pieces: list[_Piece], share: float, empties: bool, keys: bool) -> Message:
    # words without which the calls are all that is said, and which a template may ask for
    silent = turn["role"] == "assistant" and empties and not turn.get("tool_calls") and not turn.get("reasoning_content")

    def visit(part: str, content: str) -> str:
        spoken, at = content.rstrip(), 0
        if not spoken:
            if part != CONTENT or not silent:
                return content
            pieces.append(_Piece(number, part, "", "", ""))
            return f"{_OPEN}{len(pieces) - 1}{_CLOSE}"
        if part == KEY and not keys:
            return content
        if part == CONTENT and turn["role"] == "assistant" and _THOUGHT in spoken and not spoken.endswith(_THOUGHT):
            at = spoken.rindex(_THOUGHT) + len(_THOUGHT)
        at += len(spoken) - at - len(spoken[at:].lstrip())
        # a key at its end: templates that sort arguments keep their order
        cut = len(spoken) if part == KEY else at + max(1, int((len(spoken) - at) * share))
        pieces.append(_Piece(number, part, spoken[at:cut], spoken[cut:], content[len(spoken) :]))
        return f"{content[:cut]}{_OPEN}{len(pieces) - 1}{_CLOSE}{content[cut:]}"

    return each_string(turn, visit)


def _span(piece: _Piece, at: int | None, text: str) -> tuple[int, int, int] | None:
    """(begin, end, end with the white space behind) of a piece in the text; None where it is not there."""
    for escape in (str, _escaped, json.dumps, repr):
        left, right = ((escape(words)[1:-1] if escape in (json.dumps, repr) else escape(words)) for words in piece[2:4])
        if at is not None and text.startswith(right, at) and text.endswith(left, 0, at):
            end = at + len(right)
            return at - len(left), end, end + len(piece.space) if text.startswith(piece.space, end) else end
    return None


def _place(number: int, turn: Message, spans: Sequence[tuple[_Piece, tuple[int, int, int]]], text: str) -> Place:
    begin, last = min(span[0] for _, span in spans), max((span for _, span in spans), key=lambda span: span[1])
    thought = next((span[1] for piece, span in spans if piece.part == REASONING), -1)
    spoken = min((span[0] for piece, span in spans if piece.part != REASONING), default=last[1])
    return Place(number, turn["role"], begin, last[1], last[2], spoken, thought, bool(turn.get("tool_calls")))


def _missing(turn: Message, piece: _Piece, lost: dict[int, str]) -> None:
    """A string that is not in the text: thoughts and names are looked at later, all others must be there."""
    if piece.part == REASONING:
        lost[piece.turn] = "reasoning"
    elif piece.part in CALLS:
        raise leaves_out("tool_calls")
    elif piece.part == CONTENT:
        raise DataError(
            f"template_leaves_out: {turn['role'][:40]}",
            next="name the turns' roles as the template does, or take one that has them",
        )


def _escaped(words: str) -> str:
    """As a template writes a tool's message into JSON."""
    return json.dumps(words, ensure_ascii=False)[1:-1]


def _check_scalars(turns: Dialogue, placed: Sequence[Place], text: str) -> None:
    for at, place in enumerate(placed):
        if turns[place.turn].get("tool_calls"):
            following = placed[at + 1].begin if at + 1 < len(placed) else len(text)
            check_scalars(turns[place.turn], text[place.spoken : following])


def _find_lost(turns: Dialogue, placed: Sequence[Place], text: str, lost: dict[int, str]) -> None:
    """Note the turns that have a `<think>` block in their words which is not in the text.

    Raises:
        DataError: other words before a turn's last `</think>` are lost.
    """
    before = 0
    for place in placed:
        content, seen = turns[place.turn]["content"], text[before : place.begin]
        before = place.end
        if place.role != "assistant" or _THOUGHT not in content:
            continue
        for part in content.split(_THOUGHT)[:-1]:
            spoken, opened, thought = part.partition("<think>")
            spoken, thought = (spoken, thought) if opened else ("", part)
            if spoken.strip() not in seen:
                raise _drops_thoughts()
            if thought.strip() not in seen:
                lost[place.turn] = "thinking"


def _drops_thoughts() -> DataError:
    return DataError("template_leaves_out: thinking", next="this template drops <think> blocks; take one that keeps them")
