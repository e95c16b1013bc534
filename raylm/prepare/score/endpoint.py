"""The `endpoint` score: a number that a model behind an OpenAI-compatible endpoint gives each document."""

from __future__ import annotations

import contextlib
import math
import os
from typing import TYPE_CHECKING, Literal, NamedTuple, Self

from pydantic import Field, field_validator, model_validator

from raylm.core.config import Config
from raylm.core.errors import DataError
from raylm.data.patterns import Endless, TakingPattern, last_match
from raylm.inference.client import Client

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

_PROMPT = """Below is an extract of a document. Judge how useful it is for learning a subject at school, from 0 (not at all: \
advertising, noise) through 3 (useful, with flaws) to 5 (a clear and complete lesson).

Extract:
{text}

Give a reason of at most 50 words, then one last line of this form: "Score: <number>"."""
# a batch must have this many documents before the share of those without a score says anything
_JUDGED_ROWS = 20


class Answer(NamedTuple):
    """A score, or NaN and why there is none."""

    value: float
    failed: str


class Endpoint(Config):
    """Scores by a prompt, as FineWeb-Edu's annotations were made (https://arxiv.org/abs/2406.17557): vLLM, `raylm serve`, any
    chat completion API.

    Columns: `<column>` (float32, NaN without a score) and `<column>_failed` (string: unanswered, refused, unparsable,
    out_of_range; "" where there is a score).
    """

    kind: Literal["endpoint"] = "endpoint"
    url: str
    """Base URL, as `http://127.0.0.1:8000/v1`."""
    model: str
    """Name of the model there."""
    prompt: str = _PROMPT
    """The prompt; `{text}` stands for the document."""
    pattern: TakingPattern = r"(?i)score:\s*\**(-?\d+(?:\.\d+)?)"
    """Regular expression whose first group is the number; of several matches the last one counts."""
    min: float = 0.0
    """Smallest number that is a score."""
    max: float = 5.0
    """Largest number that is a score."""
    column: str = Field(default="score", pattern=r"^[a-z][a-z0-9_]*$")
    """What the columns are called."""
    key: str = "OPENAI_API_KEY"
    """Environment variable of the worker that holds the key; without it `none` is sent."""
    max_chars: int = Field(default=10_000, gt=0)
    """A longer document is judged by its beginning."""
    max_tokens: int = Field(default=512, gt=0)
    """Longest answer."""
    concurrency: int = Field(default=16, ge=1)
    """Requests of one worker that are under way at the same time."""
    deadline_s: float = Field(default=120.0, gt=0)
    """Seconds after which a document counts as unanswered, with everything tried again until then."""
    max_failed: float = Field(default=0.2, ge=0, le=1)
    """The stage stops when a larger share than this of a batch (of 20 documents or more) has no score."""

    placement = frozenset({"key", "concurrency", "deadline_s", "max_failed"})

    @field_validator("prompt")
    @classmethod
    def _holds_the_text(cls, prompt: str) -> str:
        if "{text}" not in prompt:
            raise ValueError("has no {text}")
        return prompt

    @model_validator(mode="after")
    def _has_room(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"no score lies between min = {self.min} and max = {self.max}")
        return self

    def columns(self) -> tuple[str, ...]:
        """Names of what `score` adds."""
        return self.column, f"{self.column}_failed"

    def score(self, table: pa.Table) -> dict[str, np.ndarray | pa.Array]:
        """One request per document.

        Raises:
            ConfigError: the endpoint refuses the key or does not know the model.
            DataError: too many documents of the batch have no score.
        """
        import numpy as np
        import pyarrow as pa

        remedy = f"check `url` and `model`, and the key in ${self.key}"
        key = os.environ.get(self.key)
        answers: list[Answer] = []
        with Client(self.url, self.model, key, deadline_s=self.deadline_s, concurrency=self.concurrency, hint=remedy) as client:
            conversations = [self._messages(text) for text in table["text"].to_pylist()]
            with contextlib.closing(client.ask_each(conversations, temperature=0.0, max_tokens=self.max_tokens)) as replies:
                for reply in replies:
                    answers.append(Answer(math.nan, reply.failed) if reply.failed else self._number(reply.text))
                    if len(answers) == _JUDGED_ROWS and all(answer.failed == "unanswered" for answer in answers):
                        # no endpoint answers: the rest of the batch would wait for hours
                        break
        failed = [answer.failed for answer in answers]
        lost = sum(map(bool, failed))
        if len(answers) >= _JUDGED_ROWS and lost > self.max_failed * len(answers):
            counts = ", ".join(f"{failed.count(word)} {word}" for word in sorted(set(failed) - {""}))
            remedy = "look at the endpoint and the pattern, or raise max_failed; finished work is kept"
            raise DataError(f"{lost} of {len(answers)} documents have no score: {counts}", where=self.url, next=remedy)
        answers += [Answer(math.nan, "unanswered")] * (table.num_rows - len(answers))
        failed = [answer.failed for answer in answers]
        values = np.array([answer.value for answer in answers], dtype=np.float32)
        return dict(zip(self.columns(), (values, pa.array(failed, pa.string())), strict=True))

    def _messages(self, text: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": self.prompt.replace("{text}", text[: self.max_chars])}]

    def _number(self, content: str) -> Answer:
        try:
            found = last_match(self.pattern, content)
            value = float(found[1]) if found else math.nan
        except (TypeError, ValueError, Endless):
            value = math.nan
        if math.isnan(value):
            return Answer(math.nan, "unparsable")
        return Answer(value, "") if self.min <= value <= self.max else Answer(math.nan, "out_of_range")
