"""The `calibration` task: whether a model is right as often as it is sure."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from raylm.core import page as pages
from raylm.core.config import Config, PromptsRef, card_kind, resolve
from raylm.core.errors import ConfigError
from raylm.data.answers import answer_of, same
from raylm.evaluate.checkers import AnyChecker
from raylm.evaluate.checkers.exact import Exact
from raylm.evaluate.instances import Graded
from raylm.evaluate.items import Item, item_of
from raylm.evaluate.techniques.technique import with_instruction
from raylm.inference.completions import Sampling

if TYPE_CHECKING:
    from raylm.evaluate.lm import LM

STATE = (
    "Answer on one line. On the next line write how sure you are that this is right, as a percentage from 0 to 100, in this "
    'form: "Confidence: 70%".'
)
_STATED = re.compile(r"(?i)confidence\W*?(\d+(?:\.\d+)?)\s*(%?)")
UNREADABLE = "without a confidence that can be read"


class Calibration(Config):
    """Expected calibration error (https://arxiv.org/abs/1706.04599): answers are put into bins by confidence, and the distance
    between mean confidence and share of right ones is averaged over them. Beside it the Brier score, which is the mean of its
    instances and can be compared pair by pair."""

    kind: Literal["calibration"] = "calibration"
    rows: PromptsRef
    """Prompts; their held-out split is asked."""
    confidence: Literal["likelihood", "stated"] = "likelihood"
    """likelihood: the softmax over the log-probabilities of the choices; stated: what the model says."""
    choices: str = "choices"
    """Column with the possible answers (likelihood); the ground truth is one of them, its number from 0, or its letter."""
    per_byte: bool = False
    """Divide log-probabilities by the bytes of the choice, where choices differ in length."""
    instruction: str = STATE
    """Asks for a stated confidence, behind the question."""
    checker: AnyChecker = Exact()
    """What says whether a stated answer is right."""
    num_bins: int = Field(default=10, ge=2)
    """Bins of equal width."""
    name: str = Field(default="calibration", pattern=r"^[A-Za-z][A-Za-z0-9_]*$")
    """Of its metrics."""
    num_rows: int = Field(default=256, gt=0)
    """Questions at most."""
    max_tokens: int = Field(default=64, gt=0)
    """Longest answer (stated)."""

    @property
    def needs(self) -> str:
        """What the model is asked for."""
        return "logprobs" if self.confidence == "likelihood" else "generate"

    @property
    def any_tokenizer(self) -> bool:
        """Stated confidence is asked for by messages."""
        return self.confidence == "stated"

    @property
    def better(self) -> dict[str, str]:
        """Its metrics."""
        return {f"{self.name}_error": "low", f"{self.name}_brier": "low", f"{self.name}_accuracy": "high"}

    def added(self, rows: Any) -> int:
        """Tokens that the instruction adds to a prompt at most."""
        return len(self.instruction.encode()) + 2

    def grade(self, lm: LM, rows: Any) -> list[Graded]:
        """One instance for each question.

        Raises:
            DataError: more than a tenth have no choices, no ground truth among them, or no confidence that can be read.
            ConfigError: this machine lacks what the checker needs.
        """
        picked = [rows[at] for at in range(min(self.num_rows, len(rows)))]
        graded = self._by_likelihood(lm, picked) if self.confidence == "likelihood" else self._by_words(lm, picked)
        # a question is left out with any of its choices
        lm.enough(graded, len(picked))
        return graded

    def summary(self, graded: list[Graded]) -> dict[str, float]:
        """The calibration error over bins, and means."""
        brier, accuracy = f"{self.name}_brier", f"{self.name}_accuracy"
        total = len(graded)
        return {
            f"{self.name}_error": sum(count * abs(sure - right) for count, sure, right in self.bins(graded) if count) / total,
            brier: math.fsum(one.values[brier] for one in graded) / total,
            accuracy: math.fsum(one.values[accuracy] for one in graded) / total,
        }

    def bins(self, graded: list[Graded]) -> list[tuple[int, float, float]]:
        """(answers, mean confidence, share of right ones) of each bin, the least sure first; NaN where a bin is empty."""
        held: list[list[Graded]] = [[] for _ in range(self.num_bins)]
        for one in graded:
            held[min(int(_sure(one) * self.num_bins), self.num_bins - 1)].append(one)
        accuracy = f"{self.name}_accuracy"
        return [
            (len(each), math.fsum(map(_sure, each)) / len(each), math.fsum(one.values[accuracy] for one in each) / len(each))
            if each
            else (0, math.nan, math.nan)
            for each in held
        ]

    def section(self, models: dict[str, list[Graded]]) -> tuple[str, str]:
        """Reliability: how right answers are that are so sure, for each model."""
        found = {model: self.bins(graded) for model, graded in models.items()}
        rows = [
            [model, f"{at / self.num_bins:.2f} to {(at + 1) / self.num_bins:.2f}", count, f"{sure:.3f}", f"{right:.3f}"]
            for model, bins in found.items()
            for at, (count, sure, right) in enumerate(bins)
            if count
        ]
        head = ["model", "confidence", "answers", "mean confidence", "right"]
        said = f"{self.name}: share of right answers by confidence"
        return f"Reliability of {self.name}", pages.picture(reliability(found), said) + pages.table(head, rows)

    def _by_likelihood(self, lm: LM, picked: list[dict[str, Any]]) -> list[Graded]:
        import numpy as np

        parts = [(row, *self._choices(item_of(row))) for row in picked]
        lm.leave_out(["" if right is not None else "without choices and which of them is right" for _, _, right in parts])
        parts = [part for part in parts if part[2] is not None]
        tokens, masks = [], []
        for row, choices, _ in parts:
            for choice in choices:
                answer = lm.tokenizer.encode(choice, add_special_tokens=False)
                tokens.append([*map(int, row["tokens"]), *answer])
                masks.append([0] * len(row["tokens"]) + [1] * len(answer))
        nats, seconds = iter(lm.logprob_sums(tokens, masks)), iter(lm.seconds)
        found = []
        for row, choices, right in parts:
            sums = np.array([next(nats) for _ in choices]) / (
                [len(choice.encode()) for choice in choices] if self.per_byte else 1.0
            )
            spent = sum(next(seconds) for _ in choices)
            if np.isfinite(sums).all():
                shares = np.exp(sums - sums.max())
                shares /= shares.sum()
                said = int(shares.argmax())
                found.append(self._graded(item_of(row), float(shares[said]), said == right, choices[said], len(choices), spent))
        return found

    def _choices(self, item: Item) -> tuple[list[str], int | None]:
        """The choices, and the place of the right one; None where it is not known."""
        choices = item.columns.get(self.choices)
        if not isinstance(choices, list) or len(choices) < 2 or not all(isinstance(each, str) and each for each in choices):
            return [], None
        truth = item.ground_truth or ""
        places = [at for at, choice in enumerate(choices) if same(choice, truth)]
        if not places and re.fullmatch(r"[A-Z]", truth):
            places = [ord(truth) - ord("A")]
        if not places and truth.isdecimal():
            places = [int(truth)]
        return choices, places[0] if len(places) == 1 and places[0] < len(choices) else None

    def _by_words(self, lm: LM, picked: list[dict[str, Any]]) -> list[Graded]:
        checker = resolve(self.checker)
        if lacks := checker.missing():
            raise ConfigError(f"the checker {card_kind(self.checker)} needs {lacks}", where=self.name)
        items = [item_of(row) for row in picked]
        lm.leave_out([checker.unchecked(item) for item in items])
        items = [item for item in items if not checker.unchecked(item)]
        asked = [with_instruction(item.messages, self.instruction) for item in items]
        drawn = lm.complete(asked, Sampling(max_tokens=self.max_tokens, temperature=0.0))
        answered = [(item, one, stated(answer_of(one.text))) for item, one in zip(items, drawn, strict=True) if one is not None]
        lm.leave_out(["" if read else UNREADABLE for _, _, read in answered])
        with checker.checking() as check:
            return [
                self._graded(item, read[1], check(read[0], item).value == 1.0, one.text, one.num_tokens, one.seconds)
                for item, one, read in answered
                if read
            ]

    def _graded(self, item: Item, sure: float, right: bool, said: str, tokens: int, seconds: float) -> Graded:
        values = {f"{self.name}_brier": (sure - right) ** 2, f"{self.name}_accuracy": float(right)}
        facts = {"confidence": f"{sure:.6f}"} | ({"source": item.source} if item.source else {})
        return Graded(item.id, values, dict.fromkeys(values, 1.0), facts, item.question, said, tokens, seconds)


def stated(text: str) -> tuple[str, float] | None:
    """(answer, confidence from 0 to 1) of what a model says; None where no confidence can be read, or none from 0 to 100 %."""
    found = list(_STATED.finditer(text))
    if not found:
        return None
    number = float(found[-1][1])
    # "0.7" without a sign is a share, "70" is a percentage
    sure = number / 100 if found[-1][2] or number > 1 else number
    return (text[: found[-1].start()].strip(), sure) if sure <= 1 else None


def reliability(found: dict[str, list[tuple[int, float, float]]]) -> bytes:
    """PNG with one panel per model: the share of right answers of each bin as a bar, and the line on which both are equal."""
    import io

    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(found), figsize=(3.2 * len(found), 3), squeeze=False, sharey=True)
    for panel, (model, bins) in zip(panels[0], found.items(), strict=True):
        width = 1 / len(bins)
        heights = [right if count else 0.0 for count, _, right in bins]
        panel.bar([(at + 0.5) * width for at in range(len(bins))], heights, width=0.9 * width)
        panel.plot([0, 1], [0, 1], linewidth=1, linestyle="--", color="black")
        panel.set(title=model, xlabel="confidence", xlim=(0, 1), ylim=(0, 1))
    panels[0][0].set_ylabel("share of right answers")
    figure.tight_layout()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    plt.close(figure)
    return buffer.getvalue()


def _sure(one: Graded) -> float:
    return float(one.facts["confidence"])
