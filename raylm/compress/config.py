"""Config of the `compress` stage."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from raylm.compress.methods import AnyMethod
from raylm.compress.methods.int8 import Int8
from raylm.core.config import Makes, Refers, StageConfig
from raylm.core.variants import LANGUAGE_MODELS


class Compress(StageConfig):
    """Checkpoint -> Checkpoint of fewer bytes, in the compressed-tensors format that vLLM and transformers load."""

    figures = ("bytes", "size_ratio", "rounded_share")

    stage: Literal["compress"]
    model: Annotated[str, Refers(("Checkpoint",), LANGUAGE_MODELS)]
    """Weights to compress."""
    method: AnyMethod = Int8()
    """How."""
    calibration: Annotated[str, Refers(("Tokens", "Dialogues"))] | None = None
    """Rows on which the range of activations is measured; needed by methods with static activations."""
    calibration_rows: int = Field(default=64, gt=0)
    """Number of those rows."""

    @model_validator(mode="after")
    def _calibrated(self) -> Compress:
        if self.calibration is None and "calibration" in getattr(self.method, "needs", ()):
            raise ValueError(f"method {self.method.kind} needs `calibration`: the name of a stage that makes Tokens or Dialogues")
        return self

    def makes(self) -> Makes:
        return Makes("Checkpoint", "quantized")
