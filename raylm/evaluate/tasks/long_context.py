"""The `long_context` task: facts in a long text, found by length and depth (needle in a haystack)."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from pydantic import Field, field_validator, model_validator

from raylm.core import page as pages
from raylm.core.config import Config, TokensRef
from raylm.core.errors import ConfigError, DataError
from raylm.data.answers import answer_of
from raylm.evaluate.instances import Graded, asked_id
from raylm.inference.completions import Sampling

if TYPE_CHECKING:
    from raylm.evaluate.lm import LM

CITIES = (
    "Accra", "Bergen", "Cusco", "Dakar", "Essen", "Fargo", "Genoa", "Hanoi", "Izmir", "Jaipur", "Kyoto", "Lagos", "Malmo",
    "Nantes", "Oslo", "Porto", "Quito", "Rabat", "Seoul", "Tunis", "Ulm", "Varna", "Wroclaw", "Xian", "Yerevan", "Zagreb",
)  # fmt: skip
MARGIN = 16
"""Tokens that rendering may add where texts are joined."""


class Needle(NamedTuple):
    """A fact that no text knows."""

    city: str
    number: str

    @property
    def sentence(self) -> str:
        """As it is hidden."""
        return f"The secret number of {self.city} is {self.number}."


class LongContext(Config):
    """One or several made-up facts stand in text of real documents, and are asked for; a value is the share of them that the
    answer gives (multi-needle as in RULER, https://arxiv.org/abs/2404.06654). `length` and `depth` are slices. Lengths that the
    model has no room for are left out and said."""

    needs: ClassVar[str] = "generate"
    any_tokenizer: ClassVar[bool] = True

    kind: Literal["long_context"] = "long_context"
    rows: TokensRef | None = None
    """Token rows whose held-out documents are the haystack."""
    haystack: str | None = None
    """A text file that is the haystack."""
    lengths: list[int] = Field(default=[1024, 2048, 4096], min_length=1)
    """Tokens of the whole prompt."""
    depths: list[float] = Field(default=[0.0, 0.25, 0.5, 0.75, 1.0], min_length=1)
    """Where the fact stands: 0 at the beginning, 1 at the end. Of several facts it is the first one's place, and the others stand
    at even distances behind it, around the end."""
    num_needles: int = Field(default=1, ge=1, le=len(CITIES))
    """Facts in one text, all of which are asked for."""
    samples: int = Field(default=2, ge=1)
    """Texts for each length and depth."""
    seed: int = Field(default=0, ge=0)
    """Of facts and texts."""
    name: str = Field(default="long_context", pattern=r"^[A-Za-z][A-Za-z0-9_]*$")
    """Of its metric."""
    max_tokens: int = Field(default=64, gt=0)
    """Longest answer."""

    @field_validator("depths")
    @classmethod
    def _within(cls, depths: list[float]) -> list[float]:
        if not all(0 <= depth <= 1 for depth in depths):
            raise ValueError("a depth lies between 0 and 1")
        return depths

    @model_validator(mode="after")
    def _has_text(self) -> LongContext:
        if (self.rows is None) == (self.haystack is None):
            raise ValueError("say either `rows` or `haystack`")
        return self

    @property
    def better(self) -> dict[str, str]:
        """Its metric."""
        return {self.name: "high"}

    @property
    def max_prompt(self) -> int:
        """Tokens of the longest prompt."""
        return max(self.lengths)

    def grade(self, lm: LM, rows: Any = None) -> list[Graded]:
        """One instance for each text.

        Raises:
            DataError: there is too little text, or the model has room for none of the lengths.
            ConfigError: the model's tokenizer is not known.
        """
        if lm.tokenizer is None:
            raise ConfigError(
                "lengths are counted in tokens, and the tokenizer of this endpoint is not known", next="say `tokenizer`"
            )
        room = None if lm.room is None else lm.room - self.max_tokens
        fit = [length for length in self.lengths if room is None or length <= room]
        if not fit:
            raise DataError(
                f"the model has room for {room} tokens of prompt, the shortest text has {min(self.lengths)}", where=self.name
            )
        if len(fit) < len(self.lengths):
            lm.note(
                f"texts of {', '.join(map(str, sorted(set(self.lengths) - set(fit))))} tokens do not fit: it has room for {room}"
            )
        hay = lm.tokenizer.encode(self._text(rows), add_special_tokens=False)
        cells = [(length, depth, at) for length in fit for depth in self.depths for at in range(self.samples)]
        made = [self._made(lm, hay, *cell) for cell in cells]
        answers = lm.complete([prompt for prompt, _ in made], Sampling(max_tokens=self.max_tokens, temperature=0.0))
        return [
            self._graded(cell, needles, prompt, answer)
            for cell, (prompt, needles), answer in zip(cells, made, answers, strict=True)
            if answer is not None
        ]

    def section(self, models: dict[str, list[Graded]]) -> tuple[str, str]:
        """Share of facts that were found, by length and depth."""
        rows = []
        for model, graded in models.items():
            for length in self.lengths:
                row: list[Any] = [model, length]
                for depth in self.depths:
                    cell = [one for one in graded if (one.facts["length"], one.facts["depth"]) == (str(length), f"{depth:g}")]
                    row.append(f"{sum(one.values[self.name] for one in cell) / len(cell):.2f}" if cell else "-")
                rows.append(row)
        return f"{self.name}: found by length and depth", pages.table(["model", "tokens", *(f"{d:g}" for d in self.depths)], rows)

    def _text(self, rows: Any) -> str:
        """The haystack, long enough for the longest text."""
        if self.haystack is not None:
            path = Path(self.haystack)
            if not path.is_file():
                raise DataError("there is no such file", where=self.haystack, next="paths are from where raylm is started")
            return path.read_text(encoding="utf-8")
        from raylm.core.storage import Folder
        from raylm.model.load import load_tokenizer

        tokenizer, parts, size = load_tokenizer(Folder(rows.uri).path("tokenizer")), [], 0
        for at in range(len(rows)):
            parts.append(tokenizer.decode(rows[at]["tokens"], skip_special_tokens=True, clean_up_tokenization_spaces=False))
            size += len(parts[-1])
            # a token has seldom more than 16 characters; further text would only be encoded
            if size > 16 * self.max_prompt * (self.samples + 1):
                break
        return "\n\n".join(parts)

    def _made(self, lm: LM, hay: list[int], length: int, depth: float, at: int) -> tuple[list[dict[str, str]], list[Needle]]:
        """A prompt of `length` tokens at most, and what is hidden in it."""
        draw = random.Random(f"{self.seed} {length} {depth} {at}")
        cities = draw.sample(CITIES, self.num_needles)
        needles = [Needle(city, str(draw.randrange(1_000_000, 10_000_000))) for city in cities]
        tokenizer = lm.tokenizer
        budget = length - len(lm.rendered(_asked(_question(needles), ""))) - MARGIN
        budget -= sum(len(tokenizer.encode(f" {needle.sentence} ", add_special_tokens=False)) for needle in needles)
        if budget < 1 or len(hay) < budget:
            why = "the question alone is longer" if budget < 1 else f"the haystack has {len(hay)}"
            raise DataError(
                f"no text of {length} tokens can be made: {why}", where=self.name, next="take other lengths or more text"
            )
        start = draw.randrange(len(hay) - budget + 1)
        places = [(depth + number / self.num_needles) % 1.0 if number else depth for number in range(self.num_needles)]
        while True:
            text = tokenizer.decode(hay[start : start + budget], skip_special_tokens=True, clean_up_tokenization_spaces=False)
            prompt = _asked(_question(needles), _hidden(text.strip("\ufffd"), needles, places))
            over = len(lm.rendered(prompt)) - length
            if over <= 0:
                return prompt, needles
            # joined parts were cut into other tokens
            budget -= over
            if budget < 1:
                raise DataError(f"no text of {length} tokens can be made", where=self.name, next="take longer ones")

    def _graded(self, cell: tuple[int, float, int], needles: list[Needle], prompt: list[dict[str, str]], answer: Any) -> Graded:
        length, depth, at = cell
        said = answer_of(answer.text).replace(",", "")
        found = sum(re.search(rf"(?<!\d){needle.number}(?!\d)", said) is not None for needle in needles)
        text = prompt[0]["content"]
        return Graded(
            asked_id("long_context", self.seed, length, depth, at, [needle.sentence for needle in needles]),
            {self.name: found / len(needles)},
            {self.name: 1.0},
            {"length": str(length), "depth": f"{depth:g}"},
            f"{text[:200]} ... {text[-300:]}\n(hidden: {' '.join(needle.sentence for needle in needles)})",
            answer.text,
            answer.num_tokens,
            answer.seconds,
        )


def _question(needles: list[Needle]) -> str:
    names = ", ".join(needle.city for needle in needles)
    return (
        f"What is the secret number of {names}?"
        if len(needles) == 1
        else f"What are the secret numbers of these cities: {names}?"
    )


def _asked(question: str, text: str) -> list[dict[str, str]]:
    content = f"A text stands between the lines.\n---\n{text}\n---\n{question} Answer with what the text says."
    return [{"role": "user", "content": content}]


def _hidden(text: str, needles: list[Needle], places: list[float]) -> str:
    """The text with each needle behind the sentence that ends nearest before its place."""
    ends = [0, *(match.end() for match in re.finditer(r"[.!?]\s", text)), len(text)]
    cuts = [(max(end for end in ends if end <= place * len(text)), needle) for needle, place in zip(needles, places, strict=True)]
    for cut, needle in sorted(cuts, key=lambda each: -each[0]):
        before = text[:cut].rstrip()
        text = f"{before}{' ' if before else ''}{needle.sentence} {text[cut:].lstrip()}"
    return text
