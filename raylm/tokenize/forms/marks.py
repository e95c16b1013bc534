"""Checks of a chat template's `{% generation %}` marks: they hold what the assistant says and the end of its turn, no more."""

from __future__ import annotations

from collections.abc import Sequence

from raylm.core.errors import DataError
from raylm.data.messages import Dialogue
from raylm.tokenize.forms.placing import Place
from raylm.tokenize.forms.spans import Extent, Rendering
from raylm.tokenize.forms.template import Span

_NEXT = "mend the template: {% generation %} is for what the assistant says"


def probes() -> tuple[Dialogue, Dialogue]:
    """Two questions with an answer each; behind a system prompt, which some templates want."""
    turns = [{"role": role, "content": words} for role, words in (("user", "Ab"), ("assistant", "Zq7"))]
    return [*turns, *turns], [{"role": "system", "content": "x"}, *turns, *turns]


def check_ends(drawn: Rendering, answers: Sequence[Extent]) -> None:
    """Raise DataError where marks leave out the token that ends an answer, or go on behind it into the next turn."""
    for extent in answers if drawn.marks is not None else ():
        marks = [mark for mark in drawn.marks or () if max(mark[0], extent.begin) < min(mark[1], extent.end)]
        token = drawn.text[extent.close : extent.end].strip()
        reached = max((end for _, end in marks), default=0)
        if token and reached < extent.close + len(token):
            raise DataError(
                f"the chat template's generation marks leave out {token!r}, which ends an answer: no model could learn to stop",
                next="write it before {% endgeneration %}",
            )
        if reached > extent.end and drawn.text[extent.end : reached].strip():
            raise DataError(
                f"the chat template's generation marks go on behind an answer: {drawn.text[extent.end : reached][:40]!r}",
                next=_NEXT,
            )


def check_marks(marks: Sequence[Span], found: Sequence[Place], answers: Sequence[tuple[Place, Span]]) -> None:
    """Raise DataError where a mark covers words of another role, or no words of its turn though that turn has some.

    transformers computes wrong offsets for a mark inside a macro, or a `set` block.
    """
    spoken = [place for place in found if place.begin < place.end]
    for begin, end in marks:
        held = [place for place in spoken if max(begin, place.begin) < min(end, place.end)]
        turns = [(place, span) for place, span in answers if max(begin, span[0]) < min(end, span[1])]
        right = all(place.role == "assistant" and _holds(place, (begin, end), marks) for place in held) and turns
        # a mark of its own for a think block or an end token belongs to a turn whose words are marked
        if not right or not (held or any(_holds(place, mark, marks) for place, _ in turns for mark in marks)):
            raise DataError("template_marks_others", next=_NEXT)


def _holds(place: Place, mark: Span, marks: Sequence[Span]) -> bool:
    """Whether the mark holds all that the turn says; of a turn with thoughts or calls, all marks together."""
    if mark[0] <= place.begin and place.end <= mark[1]:
        return True
    several = place.spoken > place.begin or place.calls
    own = [(begin, end) for begin, end in marks if max(begin, place.begin) < min(end, place.end)] if several else []
    return bool(own) and own[0][0] <= place.begin and place.end <= own[-1][1]
