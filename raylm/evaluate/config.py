"""Config of the `evaluate` stage."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from raylm.core.config import CustomCard, Makes, Refers, Role, StageConfig, card_kind, did_you_mean
from raylm.core.variants import GENERATES, LANGUAGE_MODELS
from raylm.evaluate.backends.endpoint import EndpointSpec
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
    gate: dict[str, float] = {}
    """Metric -> worst value with which the last model may still be served."""
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
        if self.untrained and "untrained" in self.models:
            raise ValueError("a model is called 'untrained', as the model before its first step is; say untrained = false")
        closed = not any(isinstance(task, CustomCard) for task in self.tasks)
        for name in self.gate:
            if closed and name not in known:
                raise ValueError(f"gate names {name!r}, which no task measures.{did_you_mean(name, known)}")
        return self

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
