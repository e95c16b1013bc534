"""Speculation without a model: what followed the same tokens before is proposed again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from pydantic import Field, model_validator

from raylm.core.config import Config


class Ngram(Config):
    """The last tokens are looked up in the prompt and the answer so far, and what followed them there is proposed: for answers
    that copy, such as edits, summaries and quotations (prompt lookup decoding, https://arxiv.org/abs/2304.04487)."""

    kind: Literal["ngram"] = "ngram"
    """Name of this card."""
    num_tokens: int = Field(default=4, ge=1, le=32)
    """Tokens that are proposed, and checked in one step of the model."""
    min_lookup: int = Field(default=2, ge=1)
    """Fewest last tokens that must have stood there before."""
    max_lookup: int = Field(default=4, ge=1)
    """Most last tokens that are looked up; the longest match is taken."""

    @model_validator(mode="after")
    def _ordered(self) -> Ngram:
        if self.min_lookup > self.max_lookup:
            raise ValueError(f"min_lookup = {self.min_lookup} is above max_lookup = {self.max_lookup}")
        return self

    def at(self, find: Callable[[str], str]) -> Ngram:
        """This card with what `find` says in place of a stage's name: it names none."""
        return self

    def speculative_config(self, model: str) -> dict[str, Any]:
        """vLLM's `speculative_config` for the checkpoint in the folder `model`."""
        return {
            "method": "ngram",
            "num_speculative_tokens": self.num_tokens,
            "prompt_lookup_min": self.min_lookup,
            "prompt_lookup_max": self.max_lookup,
        }
