"""Config of the `compress` stage."""

from __future__ import annotations

import contextlib
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from raylm.compress.formats import AnyFormat
from raylm.compress.formats.compressed_tensors import CompressedTensors
from raylm.compress.formats.hugging_face import HuggingFace
from raylm.compress.kv_cache import KvCache
from raylm.compress.methods import AnyMethod
from raylm.compress.methods.int8 import Int8
from raylm.core.config import CustomCard, Makes, Refers, StageConfig, card_kind, resolve
from raylm.core.errors import ConfigError
from raylm.core.variants import LANGUAGE_MODELS

ROWS = ("Tokens", "Dialogues", "Pairs", "Unpaired", "Labelled", "Prompts")


class Compress(StageConfig):
    """Checkpoint -> Checkpoint of fewer bytes, or in the format of another program."""

    figures = ("bytes", "size_ratio", "rounded_share", "kl", "flipped")

    stage: Literal["compress"]
    model: Annotated[str, Refers(("Checkpoint",), LANGUAGE_MODELS)]
    """Weights to compress, or to export."""
    format: AnyFormat | None = None
    """What is written; where it does not say: rounded weights for vLLM and transformers, plain ones in Hugging Face's layout."""
    method: AnyMethod | None = None
    """What is done to the weights; int8 where neither method nor format is named, nothing where the format holds plain ones."""
    kv_cache: KvCache | None = None
    """Scales for an 8-bit cache of keys and values, beside any rounding method or none: engines then keep it in fp8."""
    calibration: Annotated[str, Refers(ROWS)] | None = None
    """Rows that methods measure on; the changed model is compared with the original on others of them."""
    calibration_rows: int = Field(default=64, gt=0)
    """Number of those rows."""
    held_rows: int = Field(default=16, ge=0)
    """Rows on which the changed model is compared with the original (`kl`, `flipped`): held-out ones, or those behind."""

    prompts: Annotated[str, Refers(("Prompts",))] | None = None
    """Held-out rows of these are what an export is proved on, in the programs that read it; made of the chat template and plain
    text where it is absent."""

    def cards(self) -> tuple[Any, Any]:
        """Method (None for none) and format, where a default stands for what is not named.

        Raises:
            ConfigError: a custom card cannot be made here.
        """
        method, written = resolve(self.method), resolve(self.format)
        if written is None:
            written = HuggingFace() if getattr(method, "makes", "rounded") == "plain" else CompressedTensors()
        if method is None and self.kv_cache is None and "plain" not in written.takes and "rounded" in written.takes:
            method = Int8()
        return method, written

    @model_validator(mode="after")
    def _fits(self) -> Compress:
        # somebody else's cards are imported by `raylm plan`, which says what is wrong with them
        if not isinstance(self.format, CustomCard) and not isinstance(self.method, CustomCard) and (wrong := self.misfit()):
            raise ValueError(wrong)
        return self

    def misfit(self) -> str:
        """What does not go together, "" where all does. Raises ConfigError when a custom card cannot be made."""
        method, written = self.cards()
        called = card_kind(written)
        if self.prompts and not getattr(written, "proved", False):
            return f"format {called} is not proved by running it: drop prompts"
        if self.prompts and not getattr(written, "parity_prompts", 1):
            return "parity_prompts = 0 proves nothing: drop prompts, or say how many of them are asked"
        if self.kv_cache and "rounded" not in written.takes:
            does = f"format {called} has no place for scales of a cache"
            return f"{does}: drop {'format' if self.format else 'kv_cache, or method'}"
        if self.kv_cache and self.calibration is None:
            return f"kv_cache needs `calibration`: the name of a stage that makes {', '.join(ROWS)}"
        if method is None and self.kv_cache:
            return ""
        if method is None:
            needs = getattr(written, "needs", ())
            unread = [] if needs else sorted({"calibration", "calibration_rows", "held_rows"} & self.model_fields_set)
            return f"format {called} writes weights as they are: drop {', '.join(unread)}" if unread else ""
        makes = getattr(method, "makes", "rounded")
        if makes not in written.takes:
            if makes == "rounded":
                return f"format {called} writes weights as they are: drop method, {card_kind(method)} rounds them"
            remedy = "drop format" if written.takes else "write that from what a stage before has made with the method"
            return f"format {called} does not take the {makes} weights that method {card_kind(method)} makes: {remedy}"
        if self.calibration is None and "calibration" in getattr(method, "needs", ()):
            return f"method {card_kind(method)} needs `calibration`: the name of a stage that makes {', '.join(ROWS)}"
        return ""

    def makes(self) -> Makes:
        # a custom format that cannot be made here says nothing yet
        with contextlib.suppress(ConfigError):
            return Makes("Checkpoint", getattr(self.cards()[1], "variant", ""))
        return Makes("Checkpoint")
