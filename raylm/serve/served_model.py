"""A model behind the endpoint's door: its weights, its name, and the replicas that answer for it."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from raylm.core.config import Config, Refers, ReportRef, Role, WorkerSpec
from raylm.core.variants import GENERATES, VALUED
from raylm.inference.config import EngineSettings
from raylm.serve.routing import AnyRouting
from raylm.serve.routing.least_loaded import LeastLoaded
from raylm.serve.scaling import AnyScaling
from raylm.serve.scaling.decide import Bounds
from raylm.serve.scaling.tokens import Tokens

VARIANTS: dict[str, tuple[str, ...]] = {
    "generate": GENERATES,
    "embed": (*GENERATES, "masked"),
    "score": VALUED,
}
"""Checkpoints that can be asked for a task."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,95}")
PLACEMENT = frozenset({"workers", "replicas", "routing", "memory_share"})
"""Fields of a served model that do not change what it answers."""


class Replicas(Config):
    """How many engines answer, and when there are more or fewer."""

    known_as = {"target_ongoing": "policy = { kind = 'ongoing', target = 16 }"}

    min: int = Field(default=1, ge=0)
    """Engines that stay even when nobody asks; 0 lets an idle endpoint go, and the next request waits for a start."""
    max: int = Field(default=1, ge=1)
    """Most engines that answer."""
    spare: int = Field(default=0, ge=0)
    """Engines beyond these that stand loaded and answer nobody, until one of the others is lost."""
    policy: AnyScaling = Tokens()
    """How many engines a load needs; by tokens that arrive and wait, time to the first token and key-value caches."""
    most_ongoing: int = Field(default=256, ge=1)
    """Requests that one engine takes at once; more wait in the gateway."""
    upscale_delay_s: float = Field(default=10, ge=0)
    """Seconds that a higher load must last before an engine is added."""
    downscale_delay_s: float = Field(default=300, ge=0)
    """Seconds that a lower load must last before an engine is removed; a start takes longer: as long as that."""

    @model_validator(mode="after")
    def _ordered(self) -> Replicas:
        if self.min > self.max:
            raise ValueError(f"min = {self.min} is above max = {self.max}")
        return self

    @property
    def bounds(self) -> Bounds:
        """As `raylm.serve.scaling` reads them."""
        return Bounds(**{name: getattr(self, name) for name in Bounds._fields})


class Adapter(Config):
    """A LoRA adapter that answers under a name of its own."""

    name: str
    """Name that clients send as `model`."""
    path: Annotated[str, Refers(("Checkpoint",))]
    """Stage that makes it, or a folder or URI of peft's layout."""

    _checked = field_validator("name")(classmethod(lambda _, name: checked_name(name)))


class LoraSettings(Config):
    """LoRA adapters beside one model. Each takes memory from the start, and the engine's steps are somewhat slower with them."""

    most: int = Field(default=4, ge=1, le=256)
    """Adapters that are loaded at once."""
    max_rank: Literal[8, 16, 32, 64, 128, 256, 512] = 64
    """Largest rank of one."""


class ServedModel(Config):
    """One model, with replicas of its own."""

    placement = PLACEMENT

    model: Annotated[str, Refers(("Checkpoint",), (*GENERATES, "masked", *VALUED))]
    """Stage that makes the checkpoint, or a folder, URI or hub name of Hugging Face's layout."""
    model_name: str = "raylm"
    """Name that clients send as `model`."""
    task: Literal["generate", "embed", "score"] = "generate"
    """What it is asked for: texts, their vectors, or their scores (a reward model)."""
    requires: ReportRef | None = None
    """Report whose gate must have passed, or nothing is served."""
    replicas: Replicas = Replicas()
    """Number of engines and autoscaling."""
    routing: AnyRouting = LeastLoaded()
    """Which engine gets a request."""
    workers: WorkerSpec = WorkerSpec()
    """What each engine reserves."""
    adapters: list[Adapter] = []
    """LoRA adapters that are loaded from the start; `raylm adapters` loads and unloads more."""
    lora: LoraSettings | None = None
    """Take LoRA adapters, also while it serves; where it is absent those in `adapters` alone decide whether there are any."""
    max_len: int | None = Field(default=None, ge=2)
    """Most tokens of prompt and answer together; default: what the checkpoint was made for."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """What the engine computes in; auto keeps the checkpoint's format where the replica's machine has kernels for it."""
    memory_share: float = Field(default=0.85, gt=0, le=1)
    """Part of a GPU's memory that weights and cache take."""
    engine: EngineSettings = EngineSettings()
    """What makes its engines fast; `raylm tune-serve MODEL` measures that."""

    @model_validator(mode="after")
    def _engine_fits(self) -> Self:
        self.engine.check_gpus(self.workers.gpus)
        if self.engine.speculation and self.task != "generate":
            raise ValueError(f"engine.speculation proposes tokens, and a model with task = {self.task!r} draws none: drop it")
        return self

    _checked = field_validator("model_name")(classmethod(lambda _, name: checked_name(name)))

    @model_validator(mode="after")
    def _room_for_adapters(self) -> ServedModel:
        if self.adapters and self.task != "generate":
            raise ValueError(f"task = {self.task!r} takes no adapters: merge them with `raylm merge`")
        if self.lora and len(self.adapters) > self.lora.most:
            raise ValueError(f"{len(self.adapters)} adapters, and lora.most = {self.lora.most}")
        return self

    @property
    def takes_adapters(self) -> LoraSettings | None:
        """Room for LoRA adapters; None where there is none."""
        return self.lora or (LoraSettings(most=max(len(self.adapters), 4)) if self.adapters else None)

    @property
    def names(self) -> tuple[str, ...]:
        """Names that it answers to: its own, then those of the adapters that it starts with."""
        return (self.model_name, *(adapter.name for adapter in self.adapters))

    def replica_role(self) -> Role:
        """What its engines ask a cluster for."""
        count = self.replicas.max + self.replicas.spare
        return self.workers.role(count=count, least=max(self.replicas.min, 1))


def checked_name(name: str) -> str:
    """A name that a client may ask for. Raises ValueError for one that would be read as a path or does not fit a header."""
    if not _NAME.fullmatch(name) or ".." in name or "//" in name or name.endswith("/"):
        raise ValueError(
            f"{name!r} is no model name: letters, digits and . _ : / -, at most 96, beginning with a letter or digit"
        )
    return name
