"""Config of the `compress` stage."""

from __future__ import annotations

import contextlib
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from raylm.compress.formats import AnyFormat
from raylm.compress.formats.compressed_tensors import CompressedTensors
from raylm.compress.methods import AnyMethod
from raylm.compress.methods.int8 import Int8
from raylm.core.config import CustomCard, Makes, Refers, StageConfig, card_kind, resolve
from raylm.core.errors import ConfigError
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
        # somebody else's cards are imported by `raylm plan`, which says what is wrong with them
        if not isinstance(self.format, CustomCard) and not isinstance(self.method, CustomCard) and (wrong := self.misfit()):
            raise ValueError(wrong)
        return self

    def misfit(self) -> str:
        """What does not go together, "" where all does. Raises ConfigError when a custom card cannot be made."""
        method: Any = resolve(self.method)
        if not self.rounds:
            unread = sorted({"method", "calibration", "calibration_rows"} & self.model_fields_set)
            return (
                f"format {card_kind(resolve(self.format))} writes weights as they are: drop {', '.join(unread)}" if unread else ""
            )
        if self.calibration is None and "calibration" in getattr(method, "needs", ()):
            return f"method {card_kind(method)} needs `calibration`: the name of a stage that makes Tokens or Dialogues"
        return ""

    def makes(self) -> Makes:
        # a custom format that cannot be made here says nothing yet
        with contextlib.suppress(ConfigError):
            return Makes("Checkpoint", getattr(resolve(self.format), "variant", ""))
        return Makes("Checkpoint")
