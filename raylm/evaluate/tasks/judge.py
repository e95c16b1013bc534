"""The `judge` task: what a language model says of the answers, by a rubric or against another answer."""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from raylm.core.config import Config, PromptsRef, Refers
from raylm.core.variants import GENERATES
from raylm.data.answers import answer_of
from raylm.evaluate.backends.endpoint import EndpointSpec
from raylm.evaluate.instances import Graded
from raylm.evaluate.items import Item, items_of
from raylm.inference.completions import Sampling
from raylm.inference.judging import ONE, RUBRIC, SCORE, TWO, better, filled, reference, shown

if TYPE_CHECKING:
    from raylm.evaluate.lm import LM

GROUND_TRUTH = "ground_truth"
UNREADABLE = "of which the judge said nothing that can be read"


class Judge(Config):
    """Greedy answers, judged one by one. Judges prefer a place (https://arxiv.org/abs/2306.05685): a comparison is asked for in
    both orders, and one that the place alone decides is a tie. What a judge says may be wrong in ways that no interval shows:
    compare it with rows whose answers are known."""

    needs: ClassVar[str] = "generate"
    any_tokenizer: ClassVar[bool] = True

    kind: Literal["judge"] = "judge"
    rows: PromptsRef
    """Prompts; their held-out split is asked."""
    judge: Annotated[str, Refers(("Checkpoint", "Endpoint"), GENERATES, "judge")] | EndpointSpec
    """Who judges: a checkpoint, which the stage's generators hold in turn with the models; an endpoint that a stage serves; or
    any other one: `{name = "judge", url = "https://.../v1", model = "..."}`."""
    mode: Literal["rubric", "pairwise"] = "rubric"
    """rubric: a score from `low` to `high`; pairwise: better than the answer in column `opponent`, or not."""
    opponent: str = GROUND_TRUTH
    """Column with the other answer (pairwise): the ground truth, or what another model said (a generate stage writes it)."""
    rubric: str = Field(default=RUBRIC, min_length=1)
    """By what answers are judged."""
    rubric_column: str | None = None
    """Column with a rubric of its own for each row, where it is not empty."""
    with_ground_truth: bool = True
    """Show the judge the ground truth, where there is one and it is not the opponent."""
    low: float = Field(default=0.0, allow_inf_nan=False)
    """The worst score."""
    high: float = Field(default=10.0, allow_inf_nan=False)
    """The best one."""
    name: str = Field(default="judge", pattern=r"^[A-Za-z][A-Za-z0-9_]*$")
    """Of its metrics."""
    num_rows: int = Field(default=64, gt=0)
    """Questions at most."""
    max_tokens: int = Field(default=256, gt=0)
    """Longest answer."""
    repeats: int = Field(default=1, ge=1)
    """Times that the judge is asked the same; with several its agreement with itself is a metric too."""
    judge_temperature: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Of the judge."""
    judge_max_tokens: int = Field(default=512, gt=0)
    """Longest reply of the judge."""
    judge_room: int = Field(default=8192, gt=0)
    """Tokens of question, answers and reply together for which a judge in the stage's generators keeps room."""
    max_chars: int = Field(default=20_000, gt=0)
    """Longer questions and answers are shown to the judge by their beginning."""

    @model_validator(mode="after")
    def _goes_together(self) -> Judge:
        if self.low >= self.high:
            raise ValueError(f"no score lies between low = {self.low} and high = {self.high}")
        if self.repeats > 1 and self.judge_temperature == 0:
            raise ValueError(f"judge_temperature = 0 says the same repeats = {self.repeats} times: raise it")
        return self

    @property
    def better(self) -> dict[str, str]:
        """Its metrics."""
        found = {self.name: "high"}
        if self.mode == "pairwise":
            found[f"{self.name}_position_bias"] = "low"
        if self.repeats > 1:
            found[f"{self.name}_agreement"] = "high"
        return found

    def grade(self, lm: LM, rows: Any) -> list[Graded]:
        """One instance for each answer that the judge said something of.

        Raises:
            DataError: more than a tenth of its words cannot be read, or rows lack the opponent's answer.
        """
        items = items_of(rows, self.num_rows)
        lm.leave_out([self._lacks(item) for item in items])
        items = [item for item in items if not self._lacks(item)]
        drawn = lm.complete([item.messages for item in items], Sampling(max_tokens=self.max_tokens, temperature=0.0))
        answered = [(item, one) for item, one in zip(items, drawn, strict=True) if one is not None]
        texts = [(item, answer_of(one.text)) for item, one in answered]
        asked = [messages for item, text in texts for messages in self._requests(item, text)]
        judge = lm.beside(self.judge, self.judge_room)
        sampling = Sampling(max_tokens=self.judge_max_tokens, temperature=self.judge_temperature)
        replies = judge.samples(asked, sampling, self.repeats)
        each = len(asked) // max(len(texts), 1)
        groups = [replies[at : at + each] for at in range(0, len(replies), each)]
        verdicts = [self._verdicts(group) for group in groups]
        lm.leave_out(["" if found else UNREADABLE for found in verdicts])
        graded = [
            self._graded(item, one, found, group)
            for (item, one), found, group in zip(answered, verdicts, groups, strict=True)
            if found
        ]
        lm.enough(graded, min(self.num_rows, len(rows)))
        return graded

    def _lacks(self, item: Item) -> str:
        return f"without an answer in {self.opponent!r}" if self.mode == "pairwise" and not self._other(item) else ""

    def _other(self, item: Item) -> str:
        found = item.ground_truth if self.opponent == GROUND_TRUTH else item.columns.get(self.opponent)
        return str(found or "")

    def _requests(self, item: Item, text: str) -> list[list[dict[str, str]]]:
        """What the judge is asked of one answer: by a rubric once, against another one in both orders."""
        truth = (
            item.ground_truth
            if self.with_ground_truth and not (self.mode == "pairwise" and self.opponent == GROUND_TRUTH)
            else None
        )
        about = {
            "rubric": str(item.columns.get(self.rubric_column or "") or self.rubric),
            "question": shown(item.question, self.max_chars),
            "reference": reference(truth),
            "low": f"{self.low:g}",
            "high": f"{self.high:g}",
        }
        mine, other = shown(text, self.max_chars), shown(self._other(item), self.max_chars)
        if self.mode == "rubric":
            return [filled(ONE, about | {"answer": mine})]
        orders = ((mine, other), (other, mine))
        return [filled(TWO, about | {"answer": first, "other": second}) for first, second in orders]

    def _verdicts(self, group: list[Any]) -> list[tuple[float, float]]:
        """(value from 0 to 1, whether the place decided) of each repeat; [] where one of them cannot be read."""
        if any(replies is None for replies in group):
            return []
        found = []
        for repeat in zip(*group, strict=True):
            said = [one for reply in repeat if (one := self._said(answer_of(reply.text))) is not None]
            if len(said) < len(repeat):
                return []
            if self.mode == "rubric":
                found.append((said[0], 0.0))
                continue
            there, back = said[0], 1.0 - said[1]
            # one that wins in one order alone has won nothing
            found.append((there if there == back else 0.5, float({there, back} == {0.0, 1.0})))
        return found

    def _said(self, text: str) -> float | None:
        if self.mode == "pairwise":
            return better(text)
        found = re.findall(SCORE, text)
        value = float(found[-1]) if found else None
        return (value - self.low) / (self.high - self.low) if value is not None and self.low <= value <= self.high else None

    def _graded(self, item: Item, one: Any, found: list[tuple[float, float]], group: list[Any]) -> Graded:
        values = {self.name: sum(value for value, _ in found) / len(found)}
        if self.mode == "pairwise":
            values[f"{self.name}_position_bias"] = sum(biased for _, biased in found) / len(found)
        if self.repeats > 1:
            pairs = list(itertools.combinations([value for value, _ in found], 2))
            values[f"{self.name}_agreement"] = sum(left == right for left, right in pairs) / len(pairs)
        words = " | ".join(reply.text.strip()[:300] for replies in group for reply in replies[:1])
        return Graded(
            item.id,
            values,
            dict.fromkeys(values, 1.0),
            {"source": item.source} if item.source else {},
            item.question,
            f"{one.text}\n--- the judge: {words}",
            one.num_tokens,
            one.seconds,
        )
