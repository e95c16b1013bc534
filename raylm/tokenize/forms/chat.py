"""Chat rendering: dialogues as token ids by a tokenizer's chat template, with a mask on what the assistant says.

turns -> text, as transformers' apply_chat_template renders them -> spans of the trained turns in it -> tokens, mask
"""

from __future__ import annotations

import copy
import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any

from raylm.core.errors import DataError
from raylm.data.messages import Dialogue, plain
from raylm.tokenize.forms.placing import Place, places

Span = tuple[int, int]

_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
# what a template may raise on a row that it was not written for; that row is dropped
_FAILURES = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, AssertionError, RuntimeError)
_PLACEHOLDER = "\ue0f2"


class Chat:
    """Renders dialogues by one tokenizer's template, a fixed number of times per dialogue."""

    def __init__(self, tokenizer: Any) -> None:
        self._template: str = tokenizer.get_chat_template()
        self._values = tokenizer.special_tokens_map
        self._marked = bool(_GENERATION.search(self._template))
        self._backend = copy.deepcopy(tokenizer.backend_tokenizer)
        # a post-processor may cut white space off the offsets of tokens, and templates write their own special tokens
        self._backend.post_processor = None
        self._backend.encode_special_tokens = tokenizer.split_special_tokens
        self._backend.no_truncation()
        self._backend.no_padding()
        # not `all_special_tokens`: a tokenizer may mark turns with tokens that only its tokenizer.json calls special (Llama 3)
        specials = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
        either = "|".join(map(re.escape, sorted(specials, key=len, reverse=True))) or "(?!)"
        self._special, self._closing = re.compile(either), re.compile(rf"\s*(?:{either})\s*")
        self._read_template()

    def prompt(self, turns: Dialogue) -> list[int]:
        """Token ids of turns that wait for an answer, up to where the assistant begins to speak."""
        turns = plain(turns)
        text, _ = self._render(turns, prompt=True)
        places(lambda marked: self._render(marked, prompt=True, safe=True)[0], turns, text)
        return self._encode(text, ())

    def dialogue(self, turns: Dialogue) -> tuple[list[int], list[int]]:
        """(token ids, mask): 1 on what the assistant is to say, from behind the generation prompt to the end of its turn.

        The text is that of `apply_chat_template`, and so are the tokens, but where one would reach over the edge of a trained
        part: there they are parted, as they are when the text behind a prompt is generated.

        Raises:
            DataError: the template refuses the turns, leaves words of them out, or a turn (its role, too) spells a special token
                and so could forge another turn.
        """
        text, marks, found = self._placed(turns)
        answers = [(place, self._span(turns, place, found, text)) for place in found if place.role == "assistant"]
        spans = [span for place, span in answers if "weight" not in turns[place.turn]]
        if marks is not None:
            _check_marks([mark for mark in marks if mark[0] < mark[1]], found, answers)
            spans = _without(marks, [span for place, span in answers if "weight" in turns[place.turn]])
        spans = [span for span in spans if span[0] < span[1]]
        encoding = self._encoding(text, sorted({edge for span in spans for edge in span}))
        mask = [0] * len(encoding)
        ends = [end for _, (_, end) in encoding]
        begins = [begin for _, (begin, _) in encoding]
        for begin, end in spans:
            first, last = bisect_right(ends, begin), bisect_left(begins, end)
            mask[first:last] = [1] * (last - first)
        return [token for token, _ in encoding], mask

    def answers(self, question: Dialogue, *replies: Dialogue) -> tuple[list[int], list[list[int]]]:
        """(token ids of the prompt, token ids of each answer to it): prompt + answer is the rendered dialogue."""
        prompt, _ = self._render(plain(question), prompt=True)
        texts, starts = [], set()
        for answer in replies:
            turns = plain(question + answer)
            text, _, placed = self._placed(turns)
            start = len(prompt)
            if not text.startswith(prompt):
                first = next((place for place in placed if place.turn == len(question) and place.role == "assistant"), None)
                if first is None:
                    raise DataError("template_not_prefix")
                start = self._span(turns, first, placed, text)[0]
            texts.append(text)
            starts.add(text[:start])
        if len(starts) != 1:
            raise DataError("template_not_prefix")
        prompt = starts.pop()
        before = self._encode(prompt, ())
        answers = []
        for text in texts:
            whole = self._encode(text, ())
            if whole[: len(before)] != before:
                whole = self._joined(before + self._encode(text[len(prompt) :], ()), whole)
            answers.append(whole[len(before) :])
        return before, answers

    def check_end(self) -> None:
        """Raises DataError where the template writes nothing behind an answer: a model could not learn where to stop."""
        if self._behind_user is not None and not self._tail.strip():
            raise DataError(
                "the chat template writes no end token behind what the assistant says, so no model could learn to stop",
                next="let the template close an assistant's turn with the token at which generation is to stop",
            )

    def _placed(self, turns: Dialogue) -> tuple[str, list[Span] | None, list[Place]]:
        """(text, the spans that the template marks, places of the turns)."""
        turns = plain(turns)
        text, marks = self._render(turns, tracked=self._marked)
        return text, marks, places(lambda marked: self._render(marked, safe=True)[0], turns, text)

    def _render(
        self, turns: Dialogue, prompt: bool = False, tracked: bool = False, safe: bool = False
    ) -> tuple[str, list[Span] | None]:
        """The text that `apply_chat_template` gives, and the spans of `{% generation %}` in it where they are `tracked`."""
        import jinja2
        from transformers.utils.chat_template_utils import render_jinja_template

        if not safe and any(self._special.search(value) for turn in turns for value in turn.values()):
            raise DataError("special_token_in_text")
        try:
            rendered: Any = render_jinja_template(
                [turns],
                chat_template=self._template,
                return_assistant_tokens_mask=tracked,
                add_generation_prompt=prompt,
                **self._values,
            )
        except jinja2.TemplateError as cause:
            raise DataError("template_refuses", next=str(cause)) from cause
        except _FAILURES as cause:
            raise DataError(f"template_fails: {type(cause).__name__}", next=str(cause)) from cause
        texts, spans = rendered
        return texts[0], sorted(spans[0]) if tracked else None

    def _read_template(self) -> None:
        """Find out what the template writes behind a user's words before an answer, the generation prompt, an answer's end."""
        self._behind_user, self._prompt, self._tail = None, "", ""
        question = [{"role": "user", "content": _PLACEHOLDER}]
        for turns in (question, [{"role": "system", "content": "x"}, *question]):
            try:
                waiting, closed = (self._render(turns, prompt=prompt, safe=True)[0] for prompt in (True, False))
                answered = self._render([*turns, {"role": "assistant", "content": _PLACEHOLDER}], safe=True)[0]
            except DataError:
                continue
            if not all(_PLACEHOLDER in text for text in (waiting, closed, answered)):
                continue
            self._behind_user, behind = (text.rpartition(_PLACEHOLDER)[2] for text in (waiting, closed))
            shared = next((at for at, (one, other) in enumerate(zip(self._behind_user, behind, strict=False)) if one != other),
                          min(len(behind), len(self._behind_user)))  # fmt: skip
            self._prompt, self._tail = self._behind_user[shared:], answered.rpartition(_PLACEHOLDER)[2]
            return

    def _span(self, turns: Dialogue, place: Place, found: Sequence[Place], text: str) -> Span:
        """Where the assistant's turn begins behind the generation prompt, and where it has ended."""
        at = found.index(place)
        before = found[at - 1] if at else None
        edges = (before.kept, before.end) if before else (0,)
        begin = next((start for edge in edges if (start := self._start(text, edge, place.begin, before)) is not None), None)
        if begin is None:
            # the header is all that stands between; what white space the answer begins with is the answer's
            content = turns[place.turn]["content"]
            space = content[: len(content) - len(content.lstrip())]
            begin = place.begin - len(space) if text.endswith(space, edges[0], place.begin) else place.begin
        if place.turn == len(turns) - 1:
            return begin, len(text)
        following = found[at + 1].begin if at + 1 < len(found) else len(text)
        last = found[-1]
        tails = [text[last.kept :]] if last.turn == len(turns) - 1 and last.role == "assistant" else []
        return begin, self._close(text, place, following, [*tails, self._tail])

    def _start(self, text: str, edge: int, begin: int, before: Place | None) -> int | None:
        """The end of the generation prompt between `edge` and `begin`; None where there is none."""
        if before and before.role == "user" and self._behind_user and text.startswith(self._behind_user, edge, begin):
            return edge + len(self._behind_user)
        # the generation prompt of some templates opens a `<think>` block that a written answer has not, or has closed
        for prompt in (self._prompt, self._prompt.partition("<think>")[0]):
            at = text.find(prompt, edge, begin) if prompt else -1
            if at >= 0:
                return at + len(prompt)
        return None

    def _close(self, text: str, place: Place, following: int, tails: Sequence[str]) -> int:
        """The end of a turn that another one follows: closed as the last turn is, else by the special token there."""
        for end in (place.kept, place.end):
            for tail in tails:
                if tail and text.startswith(tail, end, following):
                    return end + len(tail)
        closing = self._closing.match(text, place.kept, following) if any(tails) else None
        # a header stands behind it: a special token that is all there is opens the next turn
        return closing.end() if closing and closing.end() < following else place.kept

    def _encode(self, text: str, edges: Sequence[int]) -> list[int]:
        return [token for token, _ in self._encoding(text, edges)]

    def _encoding(self, text: str, edges: Sequence[int]) -> list[tuple[int, Span]]:
        """Tokens and their characters, none of them on both sides of one of the `edges`."""
        encoding = self._backend.encode(text, add_special_tokens=False)
        offsets = encoding.offsets
        tokens = list(zip(encoding.ids, offsets, strict=True))
        reach = partial(bisect_right, [end for _, end in offsets])
        cuts = [edge for edge in edges if (at := reach(edge)) < len(offsets) and offsets[at][0] < edge]
        if not cuts:
            return tokens
        parted = []
        for begin, end in pairwise((0, *cuts, len(text))):
            part = self._backend.encode(text[begin:end], add_special_tokens=False)
            parted += [(token, (begin + a, begin + b)) for token, (a, b) in zip(part.ids, part.offsets, strict=True)]
        self._joined([token for token, _ in parted], encoding.ids)
        return parted

    def _joined(self, parted: list[int], whole: list[int]) -> list[int]:
        """Tokens of a text encoded in parts. Raises DataError where this tokenizer writes another text then."""
        decode = partial(self._backend.decode, skip_special_tokens=False)
        if decode(parted) != decode(whole):
            raise DataError("token_across_turns")
        return parted


def _check_marks(marks: Sequence[Span], found: Sequence[Place], answers: Sequence[tuple[Place, Span]]) -> None:
    """Raise DataError where a mark covers words of another role, or no words of its turn though that turn has some.

    transformers computes wrong offsets for a mark inside a macro, or a `set` block.
    """
    spoken = [place for place in found if place.begin < place.end]
    for begin, end in marks:
        held = [place for place in spoken if max(begin, place.begin) < min(end, place.end)]
        turns = [(place, span) for place, span in answers if max(begin, span[0]) < min(end, span[1])]
        right = all(place.role == "assistant" and begin <= place.begin and place.end <= end for place in held) and turns
        # a mark of its own for a think block or an end token belongs to a turn whose words are marked
        if not right or not (held or any(_is_marked(place, marks) for place, _ in turns)):
            raise DataError("template_marks_others", next="mend the template: {% generation %} is for what the assistant says")


def _is_marked(place: Place, marks: Sequence[Span]) -> bool:
    return any(begin <= place.begin and place.end <= end for begin, end in marks)


def _without(spans: Sequence[Span], others: Sequence[Span]) -> list[Span]:
    """The spans less what is in the others."""
    rest = list(spans)
    for low, high in others:
        rest = [part for begin, end in rest for part in ((begin, min(end, low)), (max(begin, high), end)) if part[0] < part[1]]
    return rest
