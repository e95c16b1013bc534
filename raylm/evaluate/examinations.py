"""Runs all models on all tasks; finished pairs are marked and not run again, a failure costs its model alone."""

from __future__ import annotations

import os
from textwrap import shorten
from typing import Any

from pydantic import TypeAdapter

from raylm.core.artifact import Artifact, Checkpoint, Endpoint, kind_in
from raylm.core.config import card_kind
from raylm.core.context import Context
from raylm.core.errors import DataError, RaylmError
from raylm.core.workers import finish_task, start_task
from raylm.data.shards import Rows
from raylm.evaluate.backends import endpoint
from raylm.evaluate.backends.pool_answers import Engine
from raylm.evaluate.config import Evaluate
from raylm.evaluate.encode import longest_prompt
from raylm.evaluate.examine import Asked, Mark, Marks, grade_all, grade_logprobs
from raylm.evaluate.instances import Graded, file_of, kept, summary_of
from raylm.evaluate.lm import LM
from raylm.evaluate.values import last_values
from raylm.inference.pool import hold_pool
from raylm.model.limits import config_of, positions
from raylm.model.load import checkpoint_path
from raylm.model.shapes import AnyShape
from raylm.model.shapes.shape import Shape

DEADLINE_S = 24 * 3600.0
UNTRAINED = "untrained"
INSTANCES = "instances"

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
        self._marks = Marks(ctx.work / "marks", ctx.out / INSTANCES, ctx.work / "answers")
        self._endpoints = _endpoints(cfg, ctx)
        first = ctx.open(cfg.models[0]) if cfg.untrained and ctx.is_stage(cfg.models[0]) else None
        self._fresh = _fresh(first) if isinstance(first, Checkpoint) and any(card.needs == "logprobs" for card in cards) else None
        self._models = [*([UNTRAINED] if self._fresh else []), *cfg.models]
        self._failed: dict[tuple[str, int], str] = {}
        for model in self._models:
            if model not in self._endpoints:
                self._follow(model)

    def by_logprobs(self) -> None:
        """Models side by side, one worker each, as many at a time as the cluster has room for."""
        from ray.exceptions import RayError

        running: dict[str, tuple[list[int], Any]] = {}
        for model in self._models:
            numbers = self._open(model, "logprobs")
            if not numbers or model in self._endpoints:
                continue
            if not running:
                self._ctx.workers.check_room(self._cfg.roles(), self._ctx.stage)
            tasks = self._tasks(numbers)
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
            if not numbers or model in self._endpoints:
                continue
            try:
                self._ask_engine(model, numbers)
            except (RaylmError, RayError, *FAILURES) as failure:
                self._fail(model, numbers, failure)
                self._ctx.workers.release("generator")

    def by_endpoints(self) -> None:
        """Endpoints one after the other, in this process; each is asked several requests at a time."""
        for model, made in self._endpoints.items():
            numbers = [*self._open(model, "logprobs"), *self._open(model, "generate")]
            if not numbers:
                continue
            try:
                refused = grade_all(self._elsewhere(model, made), self._tasks(numbers), model, self._marks)
                self._failed |= {(model, number): why for number, why in refused.items()}
            except RaylmError as failure:
                self._fail(model, numbers, failure)

    def by_instances(self) -> None:
        """Tasks that look at what the others found; of a model that lacks a grade they are asked by the next run."""
        for model in [each for each in self._cfg.models if not any(each == failed for failed, _ in self._failed)]:
            numbers = self._open(model, "instances")
            others = {name: graded for name, graded in self.graded()[model].items() if name not in map(self._name, numbers)}
            for number in numbers if others else ():
                card, at = self._cards[number], self._ctx.folder(model)
                if kind_in(at) != Checkpoint.kind:
                    self._marks.write(model, number, Mark({}, "nothing is known of what it learned from"))
                    continue
                try:
                    graded, notes = card.look(self._ctx.open(model), others)
                except DataError as refusal:
                    self._marks.write(model, number, Mark({}, refusal.what))
                    continue
                graded = kept(graded)
                summaries = {name: summary_of(each) for name, each in self.cards().items()}
                self._marks.keep(model, self._name(number), graded)
                notes += card.compared(graded, others, summaries)
                self._marks.write(model, number, Mark(summary_of(card)(graded), "; ".join(notes)))

    def graded(self) -> dict[str, dict[str, list[Graded]]]:
        """Every model's instances by task; those that are missing are left out."""
        # instances without a mark are those of a run that died, or of weights that are gone
        names = {
            model: [self._name(number) for number in range(len(self._cards)) if self._marks.read(model, number)]
            for model in self._models
        }
        found = {model: {name: self._marks.graded(model, name) for name in each} for model, each in names.items()}
        return {model: {name: graded for name, graded in tasks.items() if graded} for model, tasks in found.items()}

    def cards(self) -> dict[str, Any]:
        """The tasks by name."""
        return {self._name(number): card for number, card in enumerate(self._cards)}

    def files(self) -> dict[str, dict[str, str]]:
        """Where every model's instances lie in the artifact, by task."""
        return {model: {task: f"{INSTANCES}/{file_of(model, task)}" for task in tasks} for model, tasks in self.graded().items()}

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

    def _follow(self, model: str) -> None:
        try:
            self._marks.follow(model, checkpoint_path(self._ctx, self._cfg.models[0] if model == UNTRAINED else model))
        except RaylmError:
            # one that cannot be read fails where it is asked, and is named there
            return

    def _ask_engine(self, model: str, numbers: list[int]) -> None:
        path = checkpoint_path(self._ctx, model)
        longest = 0
        for number in numbers:
            longest = max(longest, self._longest(number, path) + self._cards[number].max_tokens)
        max_len = min(longest, positions(config_of(path)) or longest)
        engine = Engine(hold_pool(self._ctx.workers, self._cfg.generator))
        engine.hold(path, max_len)

        lm = LM(
            path,
            answerer=engine.answers(path, max_len),
            valuer=self._values,
            journal=self._marks.journal(model, path),
            beside=lambda other, room: self._beside(other, room, engine),
        )
        dtype = engine.pool.dtype
        note = f"the engine computed in {dtype.name}, {dtype.why}" if dtype.why else ""
        refused = grade_all(lm, self._tasks(numbers), model, self._marks, note)
        self._failed |= {(model, number): why for number, why in refused.items()}

    def _beside(self, other: Any, room: int, engine: Engine | None = None) -> LM:
        """Another model that a task asks: one that runs elsewhere, or a checkpoint in the generators."""
        if isinstance(other, endpoint.EndpointSpec):
            return self._elsewhere(other.name, endpoint.Endpoint(other, os.environ.get(other.key_env)))
        if kind_in(self._ctx.folder(other)) == Endpoint.kind:
            return self._elsewhere(other, endpoint.served(self._ctx.open(other), other))
        path = checkpoint_path(self._ctx, other)
        max_len = min(room, positions(config_of(path)) or room)
        engine = engine or Engine(hold_pool(self._ctx.workers, self._cfg.generator))
        return LM(path, answerer=engine.answers(path, max_len), journal=self._marks.journal(other, path))

    def _elsewhere(self, name: str, made: endpoint.Endpoint) -> LM:
        journal = self._marks.journal(name, f"{made.spec.url} {made.spec.model}")
        return LM("", scorer=made, answerer=made, journal=journal, beside=self._beside)

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

    def _tasks(self, numbers: list[int]) -> list[Asked]:
        return [Asked(number, self._cards[number], self._rows(number), self._name(number)) for number in numbers]

    def _name(self, number: int) -> str:
        """The kind of a task; with its place where another one is of that kind too."""
        kinds = [card_kind(card) for card in self._cards]
        return kinds[number] if kinds.count(kinds[number]) == 1 else f"{kinds[number]}#{number + 1}"

    def _rows(self, number: int) -> str | None:
        """Where the rows of a task lie; None for a task that brings its own texts."""
        rows = getattr(self._cards[number], "rows", None)
        return None if rows is None else self._ctx.open(rows).uri

    def _longest(self, number: int, path: str) -> int:
        """Tokens of the longest prompt of a task for the model at `path`; one that brings its own texts says it (`max_prompt`),
        one that adds to its rows' how much that is (`added(rows)`)."""
        card = self._cards[number]
        if (most := getattr(card, "max_prompt", None)) is not None:
            return most
        rows = Rows.open(self._rows(number), "held_out")  # type: ignore[arg-type]
        added = card.added(rows) if hasattr(card, "added") else 0
        return longest_prompt(card, rows, LM(path)) + added

    def _fail(self, model: str, numbers: list[int], failure: Exception) -> None:
        for number in numbers:
            if self._marks.read(model, number) is None:
                self._failed[model, number] = _in_words(failure)


def _in_words(failure: Any) -> str:
    """What went wrong, on one line; of what a worker raised, the worker's own words."""
    cause = getattr(failure, "cause", None) or failure
    words = shorten(str(cause), 300, placeholder=" ...")
    return words if isinstance(cause, RaylmError) else f"{type(cause).__name__}: {words}"


def _endpoints(cfg: Evaluate, ctx: Context) -> dict[str, endpoint.Endpoint]:
    """The models that run elsewhere: entries of `endpoints`, and Endpoint artifacts."""
    listed = {spec.name: spec for spec in cfg.endpoints}
    found = {}
    for model in cfg.models:
        if model in listed:
            found[model] = endpoint.Endpoint(listed[model], os.environ.get(listed[model].key_env))
        elif kind_in(ctx.folder(model)) == Endpoint.kind:
            found[model] = endpoint.served(ctx.open(model), model)
    return found


def _fresh(first: Artifact) -> tuple[Shape, dict[str, Any], int] | None:
    config = first.manifest.config
    if not isinstance(config.get("model"), dict):
        return None
    return TypeAdapter(AnyShape).validate_python(config["model"]), first.facts, config["seed"]
