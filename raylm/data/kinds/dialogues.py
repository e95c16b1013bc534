"""Rendered dialogues with a loss mask: what the assistant says counts."""

from __future__ import annotations

from typing import ClassVar

from raylm.data.kinds.tokens import Tokens


class Dialogues(Tokens):
    """What supervised fine-tuning reads."""

    columns: ClassVar[tuple[str, ...]] = ("tokens", "mask", "starts")
    apart: ClassVar[bool] = True
