"""A custom reward: the share of letters in a completion, which any model can learn."""

from __future__ import annotations

import os
import time
from typing import Literal

from raylm.core.config import Config
from raylm.rl.types import Score


class Share(Config):
    kind: Literal["share"] = "share"
    scale: float = 1.0

    def score(self, prompt: str, completion: str, ground_truth: str | None) -> Score:
        if ground_truth == "hang":
            time.sleep(600)
        if ground_truth == "crash":
            os._exit(1)
        share = sum(letter.isalpha() for letter in completion) / max(len(completion), 1)
        return Score(self.scale * share, "share of letters")
