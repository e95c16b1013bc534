"""Config of the `evaluate` stage."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from raylm.core.config import CustomCard, EngineUse, Makes, Refers, ReportRef, Role, StageConfig, card_kind, did_you_mean
from raylm.core.variants import GENERATES, LANGUAGE_MODELS
from raylm.evaluate.backends.endpoint import EndpointSpec
from raylm.evaluate.gate import Bound, Limit, never
from raylm.evaluate.tasks import AnyTask
from raylm.inference.config import GeneratorSpec


class Evaluate(StageConfig):
    """Checkpoints -> Report: every model on every task, one table, one picture of the road that led there."""

    placement = frozenset({"workers", "generator"})
    renamed = {"sampler": "generator"}
    figures = ("passed",)

    stage: Literal["evaluate"]
    models: list[Annotated[str, Refers(("Checkpoint", "Endpoint"), (*LANGUAGE_MODELS, "quantized"))]] = Field(min_length=1)
    """Models in the order of the road, or endpoints; the last one is the one a gate judges."""
    endpoints: list[EndpointSpec] = []
    """Models that run elsewhere, behind any OpenAI-compatible endpoint; `models` names them."""
    tasks: list[AnyTask] = Field(min_length=1)
    """What each model is asked."""
    untrained: bool = True
    """Also measure the first model as it was before its first step, when it was trained from scratch."""
    gate: dict[str, Limit] = {}
    """Metric -> worst value with which the last model may still be served; a table is decided by the interval:
    `{answers = {at_least = 0.3, confidence = 0.95}}`, `{answers = {not_below = "base", by = 0.02}}`."""
    against: ReportRef | None = None
    """An earlier Report: models of the same name, and the two judged ones, are compared on the instances that both have."""
    generator: GeneratorSpec = GeneratorSpec()
    """What the process holds that answers prompts."""

    @model_validator(mode="after")
    def _nobody_trains(self) -> Evaluate:
        if self.generator.sleeps:
            raise ValueError("generator.sleeps lends memory to a trainer, and here is none: drop it")
        return self

    @model_validator(mode="after")
    def _gate_is_measured(self) -> Evaluate:
        known = [name for task in self.tasks for name in getattr(task, "better", {})]
        if len(set(known)) < len(known):
            raise ValueError("two tasks measure the same; a second set of rows needs an evaluate stage of its own")
        if twice := next((name for name in self.models if self.models.count(name) > 1), None):
            raise ValueError(f"model {twice!r} is named twice: it would be compared with itself")
        if self.untrained and "untrained" in self.models:
            raise ValueError("a model is called 'untrained', as the model before its first step is; say untrained = false")
        closed = not any(isinstance(task, CustomCard) for task in self.tasks)
        for name, limit in self.gate.items():
            if closed and name not in known:
                raise ValueError(f"gate names {name!r}, which no task measures.{did_you_mean(name, known)}")
            if isinstance(limit, Bound):
                self._check_bound(name, limit)
        return self

    def _check_bound(self, name: str, limit: Bound) -> None:
        task = next((task for task in self.tasks if name in getattr(task, "better", {})), None)
        better = getattr(task, "better", {}).get(name, limit.direction)
        if better != limit.direction:
            fit = "at_least or not_below" if better == "high" else "at_most or not_above"
            raise ValueError(f"gate {name}: of this metric {better} is better, so a limit is {fit}")
        if limit.other is not None and limit.other not in self.models[:-1]:
            raise ValueError(
                f"gate {name} names {limit.other!r}, no model before the last.{did_you_mean(limit.other, self.models[:-1])}"
            )
        count = getattr(task, "num_rows", None)
        if count and (why := never(name, limit, count, name in getattr(task, "shares", ()))):
            raise ValueError(f"gate: {why}; raise num_rows of {card_kind(task)}")

    def makes(self) -> Makes:
        return Makes("Report")

    @model_validator(mode="after")
    def _endpoints_can_be_asked(self) -> Evaluate:
        names = [spec.name for spec in self.endpoints]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"two endpoints are called {twice!r}")
        if unused := next((name for name in names if name not in self.models), None):
            raise ValueError(f"endpoint {unused!r} is named by no entry of models")
        for spec in self.endpoints:
            for task in self.tasks:
                if "logprobs" in getattr(task, "needs", ()) and not spec.logprobs:
                    raise ValueError(
                        f"task {card_kind(task)} asks for log-probabilities, and endpoint {spec.name!r} gives none: "
                        "say logprobs = true with its tokenizer where it does (/v1/completions with echo), or drop the task"
                    )
                if getattr(task, "asks_values", False):
                    raise ValueError(
                        f"task {card_kind(task)} reads the tokens that were drawn; endpoint {spec.name!r} tells none"
                    )
        return self

    def own_names(self) -> set[str]:
        return {spec.name for spec in self.endpoints}

    def narrowed(self) -> dict[str, Refers]:
        asks = [card_kind(task) for task in self.tasks if "generate" in getattr(task, "needs", ())]
        # an endpoint answers with texts: no log-probabilities of given tokens, no ids of its own
        inside = [
            card_kind(task)
            for task in self.tasks
            if "logprobs" in getattr(task, "needs", ()) or getattr(task, "asks_values", False)
        ]
        if not asks and not inside:
            return {}
        return {"models": Refers(("Checkpoint",) if inside else (), GENERATES if asks else (), f"task {(asks or inside)[0]}")}

    def roles(self) -> dict[str, Role]:
        # log-probabilities first, then answers
        beside = any(getattr(task, "asks_values", False) for task in self.tasks)
        values = {"values": self.workers.role(count=1, phase=1)} if beside else {}
        return {**super().roles(), "generator": self.generator.role(phase=1), **values}

    def engines(self) -> list[EngineUse]:
        return [self.generator.engine(model) for model in self.models if model not in self.own_names()]
