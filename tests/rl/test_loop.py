"""Takes a learner that is lost in every round, proves that the loop ends and says so."""

from __future__ import annotations

from typing import Any

import pytest

from raylm.core.errors import PlacementError
from raylm.model.sampler import Completion
from raylm.rl.loop import MOST_STARTS, Loop
from raylm.rl.types import Prompt, Rollout, Score
from tests.rl.samples import config


class Party:
    """Samplers, judges and learners in one; the learner's group dies in every update."""

    def __init__(self) -> None:
        self.built = 0

    def restore(self):
        self.built += 1

    def weights(self, averaged: bool = False):
        return [], ""

    def load(self, weights, version: int) -> None:
        pass

    def draw(self, prompts, seeds, group, temperature):
        return [[Completion([3], [-0.5], "", "stop")] * group for _ in prompts]

    def score(self, prompts, drawn):
        return [
            Rollout(prompt, one.tokens, one.logprobs, one.text, True, Score(float(place), ""))
            for prompt, group in zip(prompts, drawn, strict=True)
            for place, one in enumerate(group)
        ]

    def update(self, samples) -> None:
        pass


def test_a_learner_that_is_lost_again_and_again_ends_the_run():
    party: Any = Party()
    rewound: list[int] = []
    prompts = [Prompt(0, [1, 2], "[]", None)]
    loop = Loop(config(), party, party, party, prompts, [], print, rewound.append, print)
    with pytest.raises(PlacementError, match="without a new round"):
        loop.run()
    assert party.built == MOST_STARTS and rewound == [0] * MOST_STARTS
