"""Where each turn of a rendered dialogue begins behind its header and where it has ended, by characters."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from raylm.core.errors import DataError
from raylm.data.messages import Dialogue
from raylm.tokenize.forms.placing import Place, places
from raylm.tokenize.forms.template import Span, Template, Tools

_THOUGHT_END = re.compile(r"</think>\s*")


Known = dict[tuple[int, bool], str]
"""(number of turns, whether with the generation prompt) -> their text."""


class Rendering(NamedTuple):
    """A dialogue as text: the spans that its template marks, the places of its turns, the thoughts that are not in it."""

    template: Template
    turns: Dialogue
    """As they were rendered: without `weight`."""
    tools: Tools
    text: str
    marks: list[Span] | None
    found: list[Place]
    lost: dict[int, str]
    known: Known

    def before(self, turn: int, prompt: bool = False) -> str:
        """The text of the turns before this one, as they were rendered when it was said."""
        if (turn, prompt) not in self.known:
            self.known[turn, prompt] = self.template.text(self.turns[:turn], self.tools, prompt=prompt, safe=True)
        return self.known[turn, prompt]

    def place(self, turn: int) -> Place | None:
        """Where the turn is; None where it says nothing."""
        return next((place for place in self.found if place.turn == turn), None)


class Extent(NamedTuple):
    """The text of a turn from behind its header to behind what closes it: [begin, end). Its end token is at [close, end)."""

    begin: int
    end: int
    close: int
    answer: int
    """Where thoughts and what closes them end: `begin` without any."""


def render(template: Template, turns: Dialogue, tools: Tools, prompt: bool = False, known: Known | None = None) -> Rendering:
    """The turns, with the generation prompt behind them where `prompt`.

    Args:
        known: texts of what these turns begin with, which grows.

    Raises:
        DataError: the template refuses the turns, or what they say is not all in the text.
    """
    text, marks = (template.text(turns, tools, prompt=True), None) if prompt else template.tracked(turns, tools)
    placed = places(lambda marked: template.text(marked, tools, prompt=prompt, safe=True), turns, text)
    return Rendering(template, turns, tools, text, marks, *placed, {} if known is None else known)


class Extents:
    """Finds the extents of turns in one tokenizer's renderings."""

    def __init__(self, special: re.Pattern[str]) -> None:
        self._special = special
        self._closing = re.compile(rf"\s*(?:{special.pattern})\s*")

    def of(self, drawn: Rendering, place: Place) -> Extent:
        """The extent of a turn: behind the generation prompt, up to the end of its turn. A turn of another role than the
        assistant begins with its words."""
        at = drawn.found.index(place)
        begin = self._begin(drawn, at) if place.role == "assistant" else place.begin
        end = self._end(drawn, at)
        return Extent(begin, end, self._close(drawn, place, end), self._answer(drawn.text, place, begin))

    def ends(self, text: str, at: int) -> bool:
        """Whether a special token stands right there, white space before it aside."""
        return self._closing.match(text, at) is not None

    def _begin(self, drawn: Rendering, at: int) -> int:
        place, before = drawn.found[at], drawn.found[at - 1] if at else None
        edges = (before.kept, before.end) if before else (0,)
        plain = before is not None and before.role == "user" and not drawn.tools and place.thought < 0
        if not plain and (exact := self._exact_prompt(drawn, place, edges[0])) is not None:
            return exact
        begin = next(
            (start for edge in edges if (start := self._start(drawn, edge, place.begin, before)) is not None),
            None,
        )
        if begin is not None:
            return begin
        # the header is all that stands between; what white space the answer begins with is the answer's
        content = drawn.turns[place.turn]["content"]
        space = content[: len(content) - len(content.lstrip())] if place.thought < 0 else ""
        return place.begin - len(space) if drawn.text.endswith(space, edges[0], place.begin) else place.begin

    def _exact_prompt(self, drawn: Rendering, place: Place, edge: int) -> int | None:
        """Where the generation prompt ends, of the turns before this one as they are rendered; None where it is another there."""
        try:
            prompt = drawn.before(place.turn, prompt=True) if place.turn else ""
        except DataError:
            return None
        if not prompt or not edge <= len(prompt) <= place.begin or not drawn.text.startswith(prompt):
            return None
        # a header that the rendered dialogue has and the prompt has not is no word of the answer either
        header = drawn.template.prompt
        return len(prompt) + (len(header) if header and drawn.text.startswith(header, len(prompt), place.begin) else 0)

    def _start(self, drawn: Rendering, edge: int, begin: int, before: Place | None) -> int | None:
        """The end of the generation prompt between `edge` and `begin`; None where there is none."""
        template, text = drawn.template, drawn.text
        if before and before.role == "user" and template.behind_user and text.startswith(template.behind_user, edge, begin):
            return edge + len(template.behind_user)
        # the generation prompt of some templates opens a `<think>` block that a written answer has not, or has closed
        for prompt in (template.prompt, template.prompt.partition("<think>")[0]):
            at = text.find(prompt, edge, begin) if prompt else -1
            if at >= 0:
                return at + len(prompt)
        return None

    def _end(self, drawn: Rendering, at: int) -> int:
        """The end of a turn that another one follows: closed as the last turn is, else by the special token there."""
        place, text = drawn.found[at], drawn.text
        if place.turn == len(drawn.turns) - 1:
            return len(text)
        following = drawn.found[at + 1].begin if at + 1 < len(drawn.found) else len(text)
        if place.role == "assistant":
            last = drawn.found[-1]
            same = last.turn == len(drawn.turns) - 1 and last.role == "assistant"
            tails = [text[last.kept :]] if same and not last.calls else []
            tails.append(drawn.template.tail)
        else:
            tails = [drawn.template.user_tail]
        if place.calls:
            return self._end_of_calls(drawn, place, following)
        for end in (place.kept, place.end):
            for tail in tails:
                if tail and text.startswith(tail, end, following):
                    return end + len(tail)
        closing = self._closing.match(text, place.kept, following) if any(tails) else None
        # a header stands behind it: a special token that is all there is opens the next turn
        return closing.end() if closing and closing.end() < following else place.kept

    def _end_of_calls(self, drawn: Rendering, place: Place, following: int) -> int:
        """What stands behind the last call where it is the last turn, as far as it stands here, too."""
        try:
            alone = drawn.before(place.turn + 1)
        except DataError:
            alone = ""
        gap, words = drawn.text[place.kept : following], drawn.text[place.spoken : place.kept]
        tail = alone.rpartition(words)[2] if words in alone else ""
        if tail and gap.startswith(tail):
            return place.kept + len(tail)
        shared = next(
            (at for at, (one, other) in enumerate(zip(tail, gap, strict=False)) if one != other), min(len(tail), len(gap))
        )
        closings = list(self._special.finditer(gap, 0, shared)) or list(self._special.finditer(gap))[:1]
        return place.kept + closings[-1].end() if closings else place.kept

    def _close(self, drawn: Rendering, place: Place, end: int) -> int:
        """Where the token that ends the turn begins; `end` where there is none."""
        closings = list(self._special.finditer(drawn.text, place.kept, end))
        known = [closing for closing in closings if closing[0] == drawn.template.end_token]
        return (known or closings)[-1].start() if closings else end

    def _answer(self, text: str, place: Place, begin: int) -> int:
        """Where the answer behind the thoughts begins."""
        low = max(begin, place.thought)
        ends = list(_THOUGHT_END.finditer(text, low, max(low, place.spoken)))
        if ends:
            return ends[-1].end()
        if place.thought < 0:
            return begin
        closing = self._closing.match(text, place.thought, max(low, place.spoken))
        return closing.end() if closing else place.thought


def with_history_of_prompt(drawn: Rendering, place: Place, begin: int) -> Rendering | None:
    """The last turn behind the turns before it as they were rendered to ask for it, where the turn itself changes them: gpt-oss
    drops what was thought before a call once an answer follows. None where more than these turns differ.

    Args:
        begin: of the turn's extent in the text.

    Raises:
        DataError: the prompt cannot be rendered.
    """
    header, before = drawn.template.prompt, drawn.text[:begin]
    asked = render(drawn.template, drawn.turns[: place.turn], drawn.tools, prompt=True)
    if not header or not before.endswith(header) or not asked.text.endswith(header):
        return None
    by = len(asked.text) - begin
    moved = place._replace(
        begin=place.begin + by,
        end=place.end + by,
        kept=place.kept + by,
        spoken=place.spoken + by,
        thought=place.thought + by if place.thought >= 0 else -1,
    )
    marks = drawn.marks and [(low + by, high + by) for low, high in drawn.marks if high > begin and low >= begin - len(header)]
    return drawn._replace(text=asked.text + drawn.text[begin:], marks=marks, found=[*asked.found, moved], lost=asked.lost)


def without(spans: Sequence[Span], others: Sequence[Span]) -> list[Span]:
    """The spans less what is in the others."""
    rest = list(spans)
    for low, high in others:
        rest = [part for begin, end in rest for part in ((begin, min(end, low)), (max(begin, high), end)) if part[0] < part[1]]
    return rest
