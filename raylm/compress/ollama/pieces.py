"""What a Jinja chat template writes between the texts of a conversation, found by rendering marked texts.

marked texts --> the template --> what stands between two marks, by the roles on both sides
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

from raylm.core.errors import ConfigError

Messages = list[dict[str, Any]]
Render = Callable[[Messages], str]
"""The text before an answer, or where the last message is one, the text up to its last word. Raises jinja2.TemplateError."""
MARK = "Zq{}x"
_MARKS = re.compile(r"Zq\d+x")
BEGUN = "begun"
"""An answer that is gone on with, in place of its role."""
EDGES = {"blanks": " \n", "lines": "\n\n"}
"""What is put at an end of a marked text to see whether the template takes it away, by what such a template takes away."""


class Gap(NamedTuple):
    """Between which two of a conversation's texts; "" is its begin, or the end of the prompt."""

    before: str
    behind: str


class Pieces(NamedTuple):
    """All that a template writes of its own, and what it does to texts."""

    gaps: dict[Gap, str]
    trims: dict[str, tuple[str, str]]
    """Of each role: what is taken away before its texts, and behind: "" nothing, "blanks" or "lines"."""
    system: str
    """`first`: where it stands; `last user`: before the words of the last one; `last message`: there too, but left out where an
    answer is gone on with; "": it is refused."""
    thought: tuple[str, str] | None
    """What stands around a thought of an answer that is gone on with; None: the template writes none."""


def find_pieces(render: Render, thinks: bool) -> Pieces:
    """Probe a template.

    Raises:
        ConfigError: it is none that writes texts one after the other.
    """
    import jinja2

    user, answer, system = "user", "assistant", "system"
    gaps: dict[Gap, str] = {}
    talk = [user, answer, user, answer, user]
    try:
        _gaps(render, talk, talk, gaps)
    except jinja2.TemplateError as cause:
        raise ConfigError(f"the chat template refuses a plain conversation: {cause}") from cause
    place = ""
    for end in (1, 3, 5):
        try:
            order = _gaps(render, [system, *talk[:end]], None, gaps)
        except jinja2.TemplateError:
            break
        place = "last user" if order[0] != system else place or "first"
    # the answer that is gone on with may be opened in another way than those before it
    begun: dict[Gap, str] = {}
    _gaps(render, [user, answer], [user, answer], begun)
    gaps[Gap(user, BEGUN)] = begun[Gap(user, answer)]
    if place == "last user" and MARK.format(0) not in render(_marked([system, user, answer])):
        place = "last message"
    return Pieces(gaps, _trims(render, place), place, _thought(render) if thinks else None)


def _gaps(render: Render, roles: list[str], order: list[str] | None, gaps: dict[Gap, str]) -> list[str]:
    """Add what stands between the marks of these roles' messages; returns the roles in the order in which they are written.

    Raises:
        ConfigError: a text is left out or written twice, or two gaps between the same roles differ.
    """
    text = render(_marked(roles))
    numbers = [int(mark[2:-1]) for mark in _MARKS.findall(text)]
    if sorted(numbers) != list(range(len(roles))):
        raise ConfigError("the chat template leaves a message out, or writes one twice")
    found = [roles[number] for number in numbers]
    if order is not None and found != order:
        raise ConfigError("the chat template writes messages in another order")
    between = _MARKS.split(text)
    for before, behind, piece in zip(["", *found], [*found, ""], between, strict=True):
        gap = Gap(before, behind)
        if gaps.setdefault(gap, piece) != piece:
            raise ConfigError(
                f"between {before or 'the begin'} and {behind or 'the end'} the chat template writes {gaps[gap]!r} in one place "
                f"and {piece!r} in another"
            )
    return found


def _marked(roles: list[str]) -> Messages:
    return [{"role": role, "content": MARK.format(number)} for number, role in enumerate(roles)]


def _trims(render: Render, place: str) -> dict[str, tuple[str, str]]:
    talk = ["system"] * bool(place) + ["user", "assistant", "user"]
    found = {role: _trimmed(render, talk, talk.index(role)) for role in dict.fromkeys(talk)}
    return {**found, BEGUN: _trimmed(render, ["user", "assistant"], 1)}


def _trimmed(render: Render, roles: list[str], number: int) -> tuple[str, str]:
    """What is taken away before and behind the text of the message `number`."""
    marks = [MARK.format(each) for each in range(len(roles))]

    def said(text: str) -> str:
        texts = [*marks[:number], text, *marks[number + 1 :]]
        return render([{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)])

    mark, plain = marks[number], said(marks[number])
    left = next((name for name, edge in EDGES.items() if said(edge + mark) == plain), "")
    right = next((name for name, edge in EDGES.items() if said(mark + edge) == plain), "")
    return left, right


def _thought(render: Render) -> tuple[str, str] | None:
    """What stands around the thought of an answer that is gone on with."""
    marks = [MARK.format(number) for number in range(3)]
    said = render(
        [{"role": "user", "content": marks[0]}, {"role": "assistant", "content": marks[2], "reasoning_content": marks[1]}]
    )
    between = _MARKS.split(said)
    return (between[1], between[2]) if _MARKS.findall(said) == marks else None
