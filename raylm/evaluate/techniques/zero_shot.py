"""The `zero_shot` technique: the question as it is."""

from __future__ import annotations

from typing import ClassVar, Literal

from raylm.evaluate.techniques.technique import Technique


class ZeroShot(Technique):
    """The question alone, one answer."""

    plain: ClassVar[bool] = True

    kind: Literal["zero_shot"] = "zero_shot"
