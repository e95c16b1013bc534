"""Config of the `compress` stage."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from raylm.compress.formats import AnyFormat
from raylm.compress.formats.compressed_tensors import CompressedTensors
from raylm.compress.methods import AnyMethod
from raylm.compress.methods.int8 import Int8
from raylm.core.config import Makes, Refers, StageConfig, resolve
from raylm.core.variants import LANGUAGE_MODELS


class Compress(StageConfig):
    """Checkpoint -> Checkpoint of fewer bytes, or in the format of another program."""

    figures = ("bytes", "size_ratio", "rounded_share")

    stage: Literal["compress"]
    model: Annotated[str, Refers(("Checkpoint",), LANGUAGE_MODELS)]
    """Weights to compress, or to export."""
    format: AnyFormat = CompressedTensors()
    """What is written: rounded weights for vLLM and transformers, or plain ones for another program."""
    method: AnyMethod = Int8()
    """How weights are rounded, in formats that hold rounded ones."""
    calibration: Annotated[str, Refers(("Tokens", "Dialogues"))] | None = None
    """Rows on which the range of activations is measured; needed by methods with static activations."""
    calibration_rows: int = Field(default=64, gt=0)
    """Number of those rows."""

    @property
    def rounds(self) -> bool:
        """Whether weights are rounded: the format says it."""
        return resolve(self.format).rounded

    @model_validator(mode="after")
    def _fits(self) -> Compress:
        if not self.rounds:
            if unread := sorted({"method", "calibration", "calibration_rows"} & self.model_fields_set):
                raise ValueError(f"format {self.format.kind} writes weights as they are: drop {', '.join(unread)}")
        elif self.calibration is None and "calibration" in getattr(self.method, "needs", ()):
            raise ValueError(f"method {self.method.kind} needs `calibration`: the name of a stage that makes Tokens or Dialogues")
        return self

    def makes(self) -> Makes:
        return Makes("Checkpoint", resolve(self.format).variant)
