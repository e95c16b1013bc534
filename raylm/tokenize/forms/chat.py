"""Chat rendering: dialogues as token ids by a tokenizer's chat template, with a mask on what is to be learned.

turns -> text, as transformers' apply_chat_template renders them -> spans of the trained turns in it -> tokens, mask
"""

from __future__ import annotations

import copy
import json
import re
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, Literal, NamedTuple

from raylm.core.errors import DataError
from raylm.data.messages import Dialogue, for_template
from raylm.tokenize.forms.learned_spans import learned_spans
from raylm.tokenize.forms.loss_mask import LossMask
from raylm.tokenize.forms.marks import check_ends, probes
from raylm.tokenize.forms.pieces import leaves_out
from raylm.tokenize.forms.spans import Extents, Known, Rendering, render, with_history_of_prompt
from raylm.tokenize.forms.template import Span, Template, Tools
from raylm.tokenize.forms.tool_schemas import check_tools

ASSISTANT = LossMask()
PerTurn = Literal["auto", "always", "never"]


class Row(NamedTuple):
    """A rendered dialogue: the turns that it is, its token ids, 1 where a token is learned."""

    turns: Dialogue
    """Those that are not learned in this row have `weight` 0."""
    tokens: list[int]
    mask: list[int]
    left_out: int
    """Thoughts of earlier turns that the template does not render, as when the answer is generated."""
    behind_prompt: bool
    """Whether its last learned answer stands behind the very prompt with which it is asked for in serving."""


class Chat:
    """Renders dialogues by one tokenizer's template."""

    def __init__(self, tokenizer: Any) -> None:
        self._backend = copy.deepcopy(tokenizer.backend_tokenizer)
        # a post-processor may cut white space off the offsets of tokens, and templates write their own special tokens
        self._backend.post_processor = None
        self._backend.encode_special_tokens = tokenizer.split_special_tokens
        self._backend.no_truncation()
        self._backend.no_padding()
        # not `all_special_tokens`: a tokenizer may mark turns with tokens that only its tokenizer.json calls special (Llama 3)
        specials = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
        either = "|".join(map(re.escape, sorted(specials, key=len, reverse=True))) or "(?!)"
        special, values = re.compile(either), tokenizer.special_tokens_map
        self.template = Template(tokenizer.get_chat_template(), values, special)
        # some tokenizers have a template of its own for rows with tools
        source = tokenizer.get_chat_template(tools=[])
        self._tool_template = self.template if source == self.template.source else Template(source, values, special)
        self._extents = Extents(special)
        self._tools_seen: dict[str, list[str]] = {}

    def prompt(self, turns: Dialogue, tools: Tools = None) -> list[int]:
        """Token ids of turns that wait for an answer, up to where the assistant begins to speak."""
        turns = for_template(turns)
        drawn = render(self._for(tools), turns, tools, prompt=True)
        self._check_thoughts(drawn, range(_last_question(turns) + 1, len(turns)))
        return self._encode(drawn.text)

    def dialogue(self, turns: Dialogue, tools: Tools = None, loss: LossMask = ASSISTANT) -> tuple[list[int], list[int]]:
        """(token ids, mask): 1 on what the assistant is to say, from behind the generation prompt to the end of its turn.

        The text is that of `apply_chat_template`, and so are the tokens, but where one would reach over the edge of a trained
        part: there they are parted, as they are when the text behind a prompt is generated.

        Raises:
            DataError: the template refuses the turns, leaves words of them out, or a turn (its role, too) spells a special token
                and so could forge another turn.
        """
        drawn, learned = self._draw(turns, tools), loss.learned(turns)
        last = _last_question(turns)
        self._check_thoughts(drawn, [turn for turn in range(len(turns)) if turn > last and turns[turn].get("weight") != 0])
        return self._masked(drawn, learned, loss)

    def rows(self, turns: Dialogue, tools: Tools = None, loss: LossMask = ASSISTANT, per_turn: PerTurn = "auto") -> list[Row]:
        """The dialogue as rows in which each trained turn stands behind what is rendered before it when it is generated.

        One row where the template renders earlier turns as it rendered them when they were said; else the dialogue up to each
        turn of which the whole says something else (`per_turn` auto), or always. A trained turn is learned in one row.

        Raises:
            DataError: as `dialogue`; thoughts of a trained turn are left out; template_rewrites_turns with `per_turn` never.
        """
        open_turns, rows = loss.learned(turns), []
        # all rows begin alike: each beginning is rendered once
        known: Known = {}
        if not open_turns:
            raise DataError("no_answer")
        until = len(turns)
        while open_turns:
            if rows or per_turn == "always":
                until = open_turns[-1] + 1
            drawn = self._draw(turns[:until], tools, known)
            held = open_turns[-1:] if per_turn == "always" else [at for at in open_turns if self._as_generated(drawn, at)]
            if len(held) < len(open_turns) and per_turn == "never":
                raise DataError(
                    "template_rewrites_turns", next='per_turn = "auto" makes a row of each turn that the template rewrites'
                )
            if not held:
                # what stands behind the last trained turn rewrites it
                until = open_turns[-1] + 1
                drawn, held = self._draw(turns[:until], tools, known), open_turns[-1:]
            self._check_thoughts(drawn, held)
            weighed = [turn if at in held else {**turn, "weight": 0} for at, turn in enumerate(turns[:until])]
            behind = _is_behind_prompt(drawn, held[-1])
            if not behind and len(held) == 1 and (mended := self._with_prompt(drawn, held[0])):
                drawn, behind = mended, True
            rows.append(Row(weighed, *self._masked(drawn, held, loss), len(drawn.lost), behind))
            open_turns = [at for at in open_turns if at not in held]
        return rows[::-1]

    def answers(self, question: Dialogue, *replies: Dialogue, tools: Tools = None) -> tuple[list[int], list[list[int]]]:
        """(token ids of the prompt, token ids of each answer to it): prompt + answer is the rendered dialogue."""
        asked = for_template(question)
        prompt = self._for(tools).text(asked, tools, prompt=True)
        texts, starts = [], set()
        for answer in replies:
            turns = question + answer
            drawn = self._draw(turns, tools)
            self._check_thoughts(drawn, range(max(_last_question(turns) + 1, len(question)), len(turns)))
            start = len(prompt)
            if not drawn.text.startswith(prompt):
                first = drawn.place(len(question))
                if first is None or first.role != "assistant":
                    raise DataError("template_not_prefix")
                start = self._extents.of(drawn, first).begin
            texts.append(drawn.text)
            starts.add(drawn.text[:start])
        if len(starts) != 1:
            raise DataError("template_not_prefix")
        prompt = starts.pop()
        before = self._encode(prompt)
        answers = []
        for text in texts:
            whole = self._encode(text)
            if whole[: len(before)] != before:
                whole = self._joined(before + self._encode(text[len(prompt) :]), whole)
            answers.append(whole[len(before) :])
        return before, answers

    def size(self, turns: Dialogue, tools: Tools = None, prompt: bool = False) -> int:
        """Tokens of the turns as they are rendered, with the generation prompt where `prompt`."""
        return len(self._encode(self._for(tools).text(for_template(turns), tools, prompt=prompt)))

    def left_out(self, tools: Tools) -> list[str]:
        """What the template does not render of the tools, beside their names and parameters: `tools.description`, ...

        Raises:
            DataError: it leaves out a tool, or a parameter of one.
        """
        if not tools:
            return []
        key = json.dumps(tools)
        if key not in self._tools_seen:
            self._tools_seen[key] = check_tools(self._for(tools), tools)
        return self._tools_seen[key]

    def offsets(self, text: str) -> list[Span]:
        """The characters of each token of a text that stands alone."""
        return self._backend.encode(text, add_special_tokens=False).offsets

    def check(self) -> None:
        """Raises DataError where no model could learn to stop: the template writes nothing behind an answer, or its marks leave
        out the token that ends one; or where marks hold what is no answer."""
        self.check_end()
        for turns in probes():
            try:
                drawn = self._draw(turns, None)
            except DataError:
                continue
            check_ends(drawn, [self._extents.of(drawn, place) for place in drawn.found if place.role == "assistant"])
            return

    def check_end(self) -> None:
        """Raises DataError where the template writes nothing behind an answer."""
        if self.template.behind_user is not None and not self.template.tail.strip():
            raise DataError(
                "the chat template writes no end token behind what the assistant says, so no model could learn to stop",
                next="let the template close an assistant's turn with the token at which generation is to stop",
            )

    def _for(self, tools: Tools) -> Template:
        return self._tool_template if tools is not None else self.template

    def _draw(self, turns: Dialogue, tools: Tools, known: Known | None = None) -> Rendering:
        return render(self._for(tools), for_template(turns), tools, known=known)

    def _check_thoughts(self, drawn: Rendering, needed: Collection[int]) -> None:
        """Raise DataError where thoughts of one of the `needed` turns are not in the text."""
        for turn, what in drawn.lost.items():
            if turn in needed:
                raise leaves_out(what)

    def _as_generated(self, drawn: Rendering, turn: int) -> bool:
        """Whether the text up to the end of this turn is what it was when the turn was the last one."""
        place = drawn.place(turn)
        if turn == len(drawn.turns) - 1 or place is None:
            return True
        alone, extent = drawn.before(turn + 1), self._extents.of(drawn, place)
        if extent.close == extent.end and self._extents.ends(alone, extent.end):
            # only as the last turn it is closed
            return False
        return alone.startswith(drawn.text[: extent.end])

    def _with_prompt(self, drawn: Rendering, turn: int) -> Rendering | None:
        place = drawn.place(turn)
        if place is None or turn != len(drawn.turns) - 1:
            return None
        try:
            return with_history_of_prompt(drawn, place, self._extents.of(drawn, place).begin)
        except DataError:
            return None

    def _masked(self, drawn: Rendering, learned: Collection[int], loss: LossMask) -> tuple[list[int], list[int]]:
        spans = learned_spans(self._extents, drawn, learned, loss)
        encoding = self._encoding(drawn.text, sorted({edge for span in spans for edge in span}))
        mask = [0] * len(encoding)
        ends = [end for _, (_, end) in encoding]
        begins = [begin for _, (begin, _) in encoding]
        for begin, end in spans:
            first, last = bisect_right(ends, begin), bisect_left(begins, end)
            mask[first:last] = [1] * (last - first)
        return [token for token, _ in encoding], mask

    def _encode(self, text: str) -> list[int]:
        return [token for token, _ in self._encoding(text, ())]

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


def _last_question(turns: Dialogue) -> int:
    return max((number for number, turn in enumerate(turns) if turn["role"] == "user"), default=-1)


def _is_behind_prompt(drawn: Rendering, turn: int) -> bool:
    if drawn.turns[turn]["role"] != "assistant" or not turn:
        return True
    try:
        return drawn.text.startswith(drawn.before(turn, prompt=True))
    except DataError:
        return False
