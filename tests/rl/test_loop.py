"""Takes trainer and generators that are lost, and rewards that say nothing, proves what the loop does again and when it ends."""

from __future__ import annotations

from typing import Any

import pytest

from raylm.core.errors import PlacementError, StageError, TrainingError
from raylm.inference.generator import Completion, GeneratorLost
from raylm.rl.loop import MOST_LOST, MOST_STARTS, Loop
from raylm.rl.types import Prompt, Rollout, Score, Unscored
from tests.rl.samples import config

PROMPTS = [Prompt(row, [1, 2], "[]", None) for row in range(3)]


class Party:
    """Generators, reward_workers and trainer in one.

    Args:
        lost: places among all calls of the generator at which it is lost; None: the trainer's group dies in every update.
    """

    def __init__(self, lost: tuple[int, ...] | None = ()) -> None:
        self.built = self.updates = self.calls = self.fresh = 0
        self.lost, self.finite = lost, True
        self.version: int | None = None
        self.completions: list[tuple[int | None, int]] = []
        self.saved: list[dict[str, Any]] = []

    def restore(self) -> None:
        self.built += 1

    def weights(self, averaged: bool = False) -> Any:
        return [], f"after {self.updates}"

    def _call(self) -> None:
        self.calls += 1
        if self.lost and self.calls in self.lost:
            raise GeneratorLost("the generator's process is dead: killed", where="generator.x")

    def load(self, weights: Any, version: int) -> None:
        self._call()
        assert weights[1] == f"after {version}"
        self.version = version

    def replace(self) -> None:
        self.fresh, self.version = self.fresh + 1, None

    def generate(self, prompts: Any, seeds: list[int], group: int, temperature: float) -> Any:
        self._call()
        self.completions.append((self.version, seeds[0]))
        return [[Completion([3], [-0.5], "", "stop")] * group for _ in prompts]

    def one_score(self, place: int) -> Score | Unscored:
        return Score(float(place), "")

    def score(self, prompts: Any, completions: Any) -> list[Rollout]:
        found = []
        for prompt, group in zip(prompts, completions, strict=True):
            for place, one in enumerate(group):
                score = self.one_score(place)
                either = (score, None) if isinstance(score, Score) else (None, score)
                found.append(Rollout(prompt, one.tokens, one.logprobs, one.text, True, *either))
        return found

    def update(self, samples: Any) -> dict[str, Any] | None:
        if self.lost is None:
            return None
        self.updates += 1
        return {"finite": self.finite}

    def save(self, facts: dict[str, Any]) -> None:
        self.saved.append(facts)


def run(party: Any, **table: Any) -> list[dict[str, Any]]:
    """The rows that a run of the loop logs."""
    rows: list[dict[str, Any]] = []
    party.rewound = []

    def log(step: int, **values: Any) -> None:
        rows.append({"step": step, **values})

    Loop(config(**table), party, party, party, PROMPTS, PROMPTS[:1], log, party.rewound.append, lambda: None).run()
    return rows


def test_a_trainer_that_is_lost_again_and_again_ends_the_run():
    party: Any = Party(lost=None)
    with pytest.raises(PlacementError, match="without a new iteration"):
        run(party)
    assert party.built == MOST_STARTS and party.rewound == [0] * MOST_STARTS


def test_a_generator_that_is_lost_in_any_phase_changes_nothing_but_itself():
    """An undisturbed run of 3 iterations calls it 9 times: load, measure, 3 x (draw, load), measure."""
    calm: Any = Party()
    rows = run(calm)
    assert calm.calls == 9 and calm.fresh == 0
    for at in range(1, 10):
        party: Any = Party(lost=(at,))
        assert [row["step"] for row in run(party)] == [row["step"] for row in rows]
        assert (party.fresh, party.built, party.updates) == (1, 1, 3)
        assert party.completions == calm.completions and party.saved == calm.saved


def test_a_fresh_generator_that_is_lost_too_is_replaced_too(capsys):
    party: Any = Party(lost=(3, 4, 5))
    run(party)
    assert party.fresh == 3 and "a fresh one takes the trainer's weights" in capsys.readouterr().err


def test_a_generator_that_is_lost_again_and_again_ends_the_run():
    party: Any = Party(lost=tuple(range(3, 20)))
    with pytest.raises(PlacementError, match=f"lost {MOST_LOST + 1} times without a new iteration in between, .*killed"):
        run(party)
    assert party.fresh == MOST_LOST


def test_an_iteration_in_which_nothing_could_be_scored_ends_the_run():
    class Fails(Party):
        def one_score(self, place: int) -> Unscored:
            return Unscored("raised", "a reward raised ApiError: rate limit reached")

    with pytest.raises(StageError, match="no completion could be scored: a reward raised ApiError: rate limit reached") as caught:
        run(Fails())
    assert caught.value.where == "iteration 0"


def test_iterations_that_are_not_finite_end_the_run():
    party: Any = Party()
    party.finite = False
    with pytest.raises(
        TrainingError, match="3 iterations in a row were not learned from; iteration 0: its gradient is not finite"
    ):
        run(party, iterations=9)
    assert party.updates == 3


def test_a_run_that_learned_nothing_is_not_done():
    class Constant(Party):
        def one_score(self, place: int) -> Score:
            return Score(0.5, "")

    party: Any = Constant()
    with pytest.raises(TrainingError, match="the weights are those of the start: all completions of each prompt scored alike"):
        run(party, iterations=5)
    assert party.updates == 5  # iterations without a signal may come before the first with one


def test_what_has_no_score_is_counted_by_reason_and_absent_from_means():
    class Some(Party):
        def one_score(self, place: int) -> Score | Unscored:
            return Unscored("not_finite", "a score is nan") if place == 0 else Score(float(place), "")

    party: Any = Some()
    rows: list[dict[str, Any]] = []

    def log(step: int, **values: Any) -> None:
        rows.append(values)

    after = Loop(config(), party, party, party, PROMPTS, PROMPTS[:1], log, lambda step: None, lambda: None).run()
    assert "held_out_reward_after" not in after and after["held_out_unscored_after"] == 1  # one answer to one prompt
    row = rows[0]
    assert (row["unscored"], row["unscored_not_finite"]) == (3, 3)
    assert row["reward"] == 4.0  # 1 to 7 of 8
