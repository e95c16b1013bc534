"""Runs all models on all tasks; finished pairs are marked and not run again, a failure costs its model alone."""

from __future__ import annotations

from functools import partial
from textwrap import shorten
from typing import Any

from pydantic import TypeAdapter

from raylm.core.artifact import Artifact
from raylm.core.config import card_kind
from raylm.core.context import Context
from raylm.core.errors import RaylmError
from raylm.core.workers import finish_task, start_task
from raylm.data.shards import Rows
from raylm.evaluate.config import Evaluate
from raylm.evaluate.examine import Mark, Marks, examine, grade_logprobs
from raylm.evaluate.lm import LM
from raylm.evaluate.values import last_values
from raylm.inference.completions import Completion, Sampling
from raylm.inference.pool import hold_pool
from raylm.model.limits import config_of, positions
from raylm.model.load import checkpoint_path
from raylm.model.shapes import AnyShape
from raylm.model.shapes.shape import Shape

DEADLINE_S = 24 * 3600.0
UNTRAINED = "untrained"

# what an engine that failed may raise: `answer_of` gives back the exception of its process, whatever it was
FAILURES = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)


class Examinations:
    """All models in all tasks.

    Args:
        cards: the tasks, by number.
    """

    def __init__(self, cfg: Evaluate, cards: list[Any], ctx: Context) -> None:
        self._cfg, self._cards, self._ctx = cfg, cards, ctx
        self._marks = Marks(ctx.work / "marks")
        first = ctx.open(cfg.models[0]) if cfg.untrained and ctx.is_stage(cfg.models[0]) else None
        self._fresh = _fresh(first) if first and any(card.needs == "logprobs" for card in cards) else None
        self._models = [*([UNTRAINED] if self._fresh else []), *cfg.models]
        self._failed: dict[tuple[str, int], str] = {}

    def by_logprobs(self) -> None:
        """Models side by side, one worker each, as many at a time as the cluster has room for."""
        from ray.exceptions import RayError

        running: dict[str, tuple[list[int], Any]] = {}
        for model in self._models:
            numbers = self._open(model, "logprobs")
            if not numbers:
                continue
            if not running:
                self._ctx.workers.check_room(self._cfg.roles(), self._ctx.stage)
            tasks = [(number, self._cards[number], self._rows(number)) for number in numbers]
            fresh = self._fresh if model == UNTRAINED else None
            try:
                path = checkpoint_path(self._ctx, self._cfg.models[0] if fresh else model)
            except RaylmError as refusal:
                self._fail(model, numbers, refusal)
                continue
            running[model] = (numbers, start_task(grade_logprobs, self._cfg.workers, path, fresh, tasks, model, self._marks))
        with self._ctx.progress(len(running), "models") as bar:
            for count, (model, (numbers, task)) in enumerate(running.items(), 1):
                try:
                    refused = finish_task(task, self._cfg.workers, DEADLINE_S, f"{self._ctx.stage}: grading {model}")
                    self._failed |= {(model, number): why for number, why in refused.items()}
                except (RaylmError, RayError) as failure:
                    self._fail(model, numbers, failure)
                bar.to(count, model=model)

    def by_answers(self) -> None:
        """One engine answers for model after model; a model of another make, or after a failure, gets a process of its own."""
        from ray.exceptions import RayError

        for model in self._cfg.models:
            numbers = self._open(model, "generate")
            if not numbers:
                continue
            try:
                self._ask_engine(model, numbers)
            except (RaylmError, RayError, *FAILURES) as failure:
                self._fail(model, numbers, failure)
                self._ctx.workers.release("generator")

    def grades(self) -> dict[str, dict[str, float]]:
        """Every model's grades; those that are missing are left out."""
        found: dict[str, dict[str, float]] = {}
        for model in self._models:
            marks = [self._marks.read(model, number) for number in range(len(self._cards))]
            found[model] = {name: value for mark in marks if mark for name, value in mark.grades.items()}
        return found

    @property
    def missing(self) -> dict[str, dict[str, str]]:
        """Why there is no grade: model -> task -> reason."""
        found: dict[str, dict[str, str]] = {}
        for (model, number), why in self._failed.items():
            found.setdefault(model, {})[self._name(number)] = why
        return found

    def notes(self) -> list[str]:
        """One line for each grade that is missing, or that has something to be said about it."""
        lines = [f"{model} has no grade in {task}: {why}" for model, tasks in self.missing.items() for task, why in tasks.items()]
        for model in self._models:
            for number in range(len(self._cards)):
                mark = self._marks.read(model, number)
                if mark and mark.note:
                    lines.append(f"{model} in {self._name(number)}: {mark.note}")
        return lines

    def _ask_engine(self, model: str, numbers: list[int]) -> None:
        path = checkpoint_path(self._ctx, model)
        longest = 0
        for number in numbers:
            longest = max(longest, self._longest(number) + self._cards[number].max_tokens)
        max_len = min(longest, positions(config_of(path)) or longest)
        pool = hold_pool(self._ctx.workers, self._cfg.generator)
        pool.start(path, max_len=max_len)

        def drawn(prompts: list[list[int]], max_tokens: int) -> list[Completion]:
            return [group[0] for group in pool.generate(prompts, Sampling(max_tokens=max_tokens, temperature=0.0))]

        lm = partial(
            LM,
            path,
            generator=lambda *asked: [one.text for one in drawn(*asked)],
            room=max_len,
            drawer=lambda *asked: [one.tokens for one in drawn(*asked)],
            valuer=self._values,
        )
        computes = pool.dtype
        for number in numbers:
            try:
                mark: Mark = examine(lm(), self._cards[number], self._rows(number))
            except RaylmError as refusal:
                self._fail(model, [number], refusal)
            else:
                notes = [mark.note, f"the engine computed in {computes.name}, {computes.why}" if computes.why else ""]
                self._marks.write(model, number, mark._replace(note="; ".join(filter(None, notes))))

    def _values(self, card: Any, sequences: list[list[int]]) -> list[float]:
        """What a task's reward model says of sequences, by a worker beside the engine."""
        rows, path = self._ctx.open(card.rows), checkpoint_path(self._ctx, card.model)
        spec, asked = self._cfg.workers, (rows.folder.path("tokenizer"), sequences, card.dtype, card.batch_tokens)
        return finish_task(
            start_task(last_values, spec, path, *asked), spec, DEADLINE_S, f"{self._ctx.stage}: values by {card.model}"
        )

    def _open(self, model: str, needs: str) -> list[int]:
        """Numbers of the tasks of one kind in which `model` has no mark yet."""
        numbers = [number for number, card in enumerate(self._cards) if card.needs == needs]
        return [number for number in numbers if self._marks.read(model, number) is None]

    def _name(self, number: int) -> str:
        """The kind of a task; with its place where another one is of that kind too."""
        kinds = [card_kind(card) for card in self._cards]
        return kinds[number] if kinds.count(kinds[number]) == 1 else f"{kinds[number]}#{number + 1}"

    def _rows(self, number: int) -> str | None:
        """Where the rows of a task lie; None for a task that brings its own texts."""
        rows = getattr(self._cards[number], "rows", None)
        return None if rows is None else self._ctx.open(rows).uri

    def _longest(self, number: int) -> int:
        """Tokens of the longest prompt of a task; one that brings its own texts says it (`max_prompt`)."""
        if (uri := self._rows(number)) is None:
            return self._cards[number].max_prompt
        rows = Rows.open(uri, "held_out")
        return max((len(rows[at]["tokens"]) for at in range(len(rows))), default=0)

    def _fail(self, model: str, numbers: list[int], failure: Exception) -> None:
        for number in numbers:
            if self._marks.read(model, number) is None:
                self._failed[model, number] = _in_words(failure)


def _in_words(failure: Any) -> str:
    """What went wrong, on one line; of what a worker raised, the worker's own words."""
    cause = getattr(failure, "cause", None) or failure
    words = shorten(str(cause), 300, placeholder=" ...")
    return words if isinstance(cause, RaylmError) else f"{type(cause).__name__}: {words}"


def _fresh(first: Artifact) -> tuple[Shape, dict[str, Any], int] | None:
    config = first.manifest.config
    if not isinstance(config.get("model"), dict):
        return None
    return TypeAdapter(AnyShape).validate_python(config["model"]), first.facts, config["seed"]
