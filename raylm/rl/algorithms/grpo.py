"""The `grpo` algorithm: advantages within each group of completions, and a clipped policy loss."""

from __future__ import annotations

from typing import Literal

from raylm.rl.algorithms.clipped import Clipped
from raylm.rl.algorithms.grouped import GroupNormalized


class Grpo(Clipped, GroupNormalized):
    """Group relative policy optimisation (https://arxiv.org/abs/2402.03300), normalised over all tokens of the global
    batch (https://arxiv.org/abs/2503.14476) and without a value model.

    The paper's own loss is aggregation = "sequence". Dr. GRPO (https://arxiv.org/abs/2503.20783) is scale_rewards = "none" with
    aggregation = "constant". DAPO (https://arxiv.org/abs/2503.14476) is the default `aggregation`, `clip` and `clip_high` with
    `dynamic_sampling` and `overlong`.
    """

    renamed = {"group": "num_generations", "scale_by_deviation": "scale_rewards"}

    kind: Literal["grpo"] = "grpo"
