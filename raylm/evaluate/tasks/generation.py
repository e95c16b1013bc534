"""The `generation` task: how many answers a checker finds right, by a prompting technique; pass@k of several draws."""

from __future__ import annotations

import math
from contextlib import ExitStack
from textwrap import shorten
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from raylm.core.config import Config, PromptsRef, card_kind, resolve
from raylm.core.errors import ConfigError, DataError
from raylm.data.answers import answer_of
from raylm.evaluate.checkers import AnyChecker
from raylm.evaluate.checkers.checker import Check
from raylm.evaluate.checkers.exact import Exact
from raylm.evaluate.instances import Graded
from raylm.evaluate.items import Item, items_of
from raylm.evaluate.techniques import AnyTechnique
from raylm.evaluate.techniques.technique import chosen, voted
from raylm.evaluate.techniques.zero_shot import ZeroShot
from raylm.inference.completions import Sampling

if TYPE_CHECKING:
    from raylm.evaluate.lm import LM

TURN = 16
"""Tokens with which a chat template marks a turn at most."""


class Generation(Config):
    """Answers that are generated and checked. The same task with another `technique` has another name, and is compared with it
    question by question."""

    needs: ClassVar[str] = "generate"
    any_tokenizer: ClassVar[bool] = True
    """The rows' messages are asked, not their tokens."""

    kind: Literal["generation"] = "generation"
    rows: PromptsRef
    """Prompts; their held-out split is asked, examples come from their train split."""
    checker: AnyChecker = Exact()
    """What says whether an answer is right."""
    technique: AnyTechnique = ZeroShot()
    """How a question is put."""
    name: str | None = Field(default=None, pattern=r"^[A-Za-z][A-Za-z0-9_]*$")
    """Of its metrics; `generation` and the technique, where it is another than zero_shot."""
    num_rows: int = Field(default=128, gt=0)
    """Questions at most."""
    max_tokens: int = Field(default=256, gt=0)
    """Longest answer."""
    temperature: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """0 takes the likeliest token."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Draw from the smallest set of tokens that has this probability."""
    seed: int = Field(default=0, ge=0)
    """Of the draws."""
    num_draws: int = Field(default=1, ge=1)
    """Answers to each question; with several the metrics are pass@k, the probability that one of k answers is right."""
    pass_at: list[int] = [1]
    """The k of pass@k."""

    @model_validator(mode="after")
    def _goes_together(self) -> Generation:
        several = self.num_draws > 1
        technique = self.technique
        if several and self.temperature == 0:
            raise ValueError(f"temperature = 0 draws the same answer num_draws = {self.num_draws} times: raise it")
        if several and getattr(technique, "draws", 1) > 1:
            raise ValueError(f"the technique {technique.kind} draws by itself: leave num_draws out")
        if not self.pass_at or max(self.pass_at) > self.num_draws or min(self.pass_at) < 1:
            raise ValueError(f"pass_at = {self.pass_at}: every k lies between 1 and num_draws = {self.num_draws}")
        if getattr(technique, "draws", 1) > 1 and not getattr(self.checker, "votes", True):
            raise ValueError(f"answers for the checker {self.checker.kind} cannot vote: take another technique")
        return self

    @property
    def title(self) -> str:
        """What its metrics are called."""
        return self.name or "_".join(
            ["generation", *([] if getattr(self.technique, "plain", False) else [card_kind(self.technique)])]
        )

    @property
    def asks(self) -> str:
        """The same for tasks that put the same questions by different techniques; "" for one that is compared with none."""
        if self.num_draws > 1:
            return ""
        checker = self.checker.fingerprint()
        return f"generation {self.rows} {checker} {self.num_rows} {self.max_tokens} {self.temperature} {self.top_p} {self.seed}"

    @property
    def better(self) -> dict[str, str]:
        """Its metrics."""
        if self.num_draws == 1:
            return {self.title: "high"}
        return {f"{self.title}_pass_at_{k}": "high" for k in self.pass_at}

    @property
    def shares(self) -> tuple[str, ...]:
        """Those that are shares of instances."""
        return tuple(self.better) if self.num_draws == 1 else ()

    def added(self, rows: Any) -> int:
        """Tokens that the technique adds to a prompt at most; a token is a byte at least."""
        technique, items = resolve(self.technique), items_of(rows, self.num_rows)
        if not items:
            return 0
        shots = self._shots(technique, rows, items)
        before, after = items[0].messages, technique.messages(items[0], shots)
        size = sum(len(str(turn["content"]).encode()) for turn in after) - sum(
            len(str(turn["content"]).encode()) for turn in before
        )
        return size + TURN * (len(after) - len(before))

    def grade(self, lm: LM, rows: Any) -> list[Graded]:
        """One instance for each question that can be checked.

        Raises:
            ConfigError: this machine lacks what the checker needs.
            DataError: no question can be checked, or the train split has too few examples.
        """
        checker, technique = resolve(self.checker), resolve(self.technique)
        if lacks := checker.missing():
            raise ConfigError(f"the checker {card_kind(self.checker)} needs {lacks}", where=self.title)
        items = items_of(rows, self.num_rows)
        lm.leave_out([checker.unchecked(item) for item in items])
        items = [item for item in items if not checker.unchecked(item)]
        if not items:
            raise DataError("no question can be checked", where=self.rows, next="give the rows what the checker compares with")
        shots = self._shots(technique, rows, items)
        draws = technique.draws if technique.draws > 1 else self.num_draws
        table = {"max_tokens": self.max_tokens, "temperature": self.temperature, "top_p": self.top_p, "seed": self.seed}
        sampling = Sampling(**table | technique.sampling)
        answers = lm.samples([technique.messages(item, shots) for item in items], sampling, draws)
        with ExitStack() as stack:
            check = stack.enter_context(checker.checking())
            pairs = [(item, drawn) for item, drawn in zip(items, answers, strict=True) if drawn]
            found = [self._graded(item, drawn, checker, technique, check) for item, drawn in pairs]
        lm.leave_out(["" if one else "whose ground truth cannot be read" for one in found])
        graded = [one for one in found if one]
        lm.enough(graded, min(self.num_rows, len(rows)))
        return graded

    def _shots(self, technique: Any, rows: Any, items: list[Item]) -> list[Item]:
        number, _ = technique.examples
        if not number:
            return []
        shots = chosen(_train_split(rows), technique, {item.question_id for item in items})
        if len(shots) < number:
            raise DataError(
                f"{card_kind(technique)} asks for {number} examples, the train split has {len(shots)}",
                where=self.rows,
                next="lower num_examples, or give more rows what the technique shows",
            )
        return shots

    def _graded(self, item: Item, drawn: list[Any], checker: Any, technique: Any, check: Check) -> Graded | None:
        texts = [answer_of(answer.text) for answer in drawn]
        shown = 0
        if technique.draws > 1:
            shown = voted([checker.said(text) for text in texts])
            checked = [check(texts[shown], item)]
        else:
            checked = [check(text, item) for text in texts]
        if any(math.isnan(one.value) for one in checked):
            return None
        facts = {"source": item.source, "finish": str(drawn[shown].finish), "why": shorten(checked[0].why, 120)}
        return Graded(
            item.id,
            self._values([one.value for one in checked]),
            dict.fromkeys(self.better, 1.0),
            {name: value for name, value in facts.items() if value},
            item.question,
            drawn[shown].text,
            sum(answer.num_tokens for answer in drawn),
            max(answer.seconds for answer in drawn),
        )

    def _values(self, values: list[float]) -> dict[str, float]:
        if self.num_draws == 1:
            return {self.title: values[0]}
        right = sum(value == 1.0 for value in values)
        return {f"{self.title}_pass_at_{k}": pass_at(k, len(values), right) for k in self.pass_at}


def pass_at(k: int, draws: int, right: int) -> float:
    """Probability that at least one of `k` answers is right, where `right` of `draws` are: the unbiased estimator
    1 - C(draws - right, k) / C(draws, k) (https://arxiv.org/abs/2107.03374)."""
    return 1.0 - math.comb(draws - right, k) / math.comb(draws, k)


def _train_split(rows: Any) -> Any:
    from raylm.data.shards import Rows

    return Rows.open(rows.uri, "train")
