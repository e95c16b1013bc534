"""The characters of a rendered dialogue that are learned: its marks or the extents of its turns, as a loss mask has it."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from raylm.tokenize.forms.loss_mask import LossMask
from raylm.tokenize.forms.marks import check_marks
from raylm.tokenize.forms.placing import Place
from raylm.tokenize.forms.spans import Extent, Extents, Rendering, without
from raylm.tokenize.forms.template import Span


def learned_spans(finder: Extents, drawn: Rendering, learned: Collection[int], loss: LossMask) -> list[Span]:
    """The characters of the `learned` turns that count, in order.

    Raises:
        DataError: the template marks what is no answer.
    """
    extents = [(place, finder.of(drawn, place)) for place in drawn.found if _asked(place, loss)]
    answers = [(place, extent) for place, extent in extents if place.role == "assistant"]
    taken = [(place, extent) for place, extent in extents if place.turn in learned]
    if drawn.marks is None:
        spans = [extent[:2] for _, extent in taken]
    else:
        check_marks([mark for mark in drawn.marks if mark[0] < mark[1]], drawn.found, [(p, e[:2]) for p, e in answers])
        # a mark may begin before the extent of its turn, with the header
        own = [mark for mark in drawn.marks if any(_overlap(mark, extent[:2]) for _, extent in taken)]
        spans = without(own, [extent[:2] for place, extent in answers if place.turn not in learned])
        spans += [extent[:2] for place, extent in taken if place.role != "assistant"]
    if not loss.train_on_reasoning:
        spans = without(spans, [(extent.begin, extent.answer) for _, extent in taken])
    spans = _with_ends(spans, extents, taken, loss)
    return [span for span in sorted(spans) if span[0] < span[1]]


def _overlap(one: Span, other: Span) -> bool:
    return max(one[0], other[0]) < min(one[1], other[1])


def _asked(place: Place, loss: LossMask) -> bool:
    return place.role == "assistant" or place.role in loss.roles_to_train or loss.train_on_eot == "all"


def _with_ends(
    spans: list[Span], extents: Sequence[tuple[Place, Extent]], taken: Sequence[tuple[Place, Extent]], loss: LossMask
) -> list[Span]:
    """The spans with the ends of turns that are learned, and without others."""
    if loss.train_on_eot == "turn":
        return spans
    if loss.train_on_eot == "last":
        return without(spans, [(extent.close, extent.end) for _, extent in taken[:-1]])
    closes = [(extent.close, extent.end) for _, extent in extents if extent.close < extent.end]
    return without(spans, closes) + closes
