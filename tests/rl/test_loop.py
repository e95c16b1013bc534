"""Lost trainers and generators, and rewards without a signal: what the loop repeats, and when it ends."""

from __future__ import annotations

import tempfile
from typing import Any

import pytest

from raylm.core.errors import GroupLost, PlacementError, StageError, TrainingError
from raylm.core.storage import Folder
from raylm.data.shards import read_parquet
from raylm.inference.completions import Completion, VersionSpan
from raylm.rl.loop import Loop
from raylm.rl.placement import check_versions
from raylm.rl.rollout_files import HELD_OUT, folder_of, iterations_in, read
from raylm.rl.sample_ledger import SAMPLES, SampleLedger
from raylm.rl.seen import Seen
from raylm.rl.trainer import Exported
from raylm.rl.types import Prompt, Rollout, Sample, Score, Unscored, check_advantages
from tests.rl.samples import config

PROMPTS = {row: Prompt(row, [1, 2], "[]", None) for row in range(3)}
SKIP = {
    "what": "skip", "step": 1, "position": 1, "to": 1, "offset": 1, "loss": 9.0, "loss_z": 20.0, "grad_norm": 1.0, "norm_z": 1.0,
    "rows": [1], "documents": [],
}  # fmt: skip
ROLLBACK = {**SKIP, "what": "rollback"}


class Party:
    """Generators, reward_workers and trainer in one.

    Args:
        lost: places among all calls that need the trainer's weights at which its group is lost; None: it dies in every update.
    """

    def __init__(self, lost: tuple[int, ...] | None = ()) -> None:
        self.built = self.updates = self.calls = 0
        self.lost, self.finite = lost, True
        self.version: int | None = None
        self.completions: list[tuple[int | None, int]] = []
        self.saved: list[dict[str, Any]] = []
        self.rows: list[dict[str, Any]] = []
        self.rewound: list[int] = []
        self.asked: list[tuple[int, ...]] = []
        self.spike: dict[str, Any] | None = None
        self.naps: list[str] = []

    def restore(self) -> dict[str, Any]:
        self.built += 1
        found = {"decisions": [], "iteration": 0, "version": 0, **(self.saved[-1] if self.saved else {})}
        self.updates, self.changes = found["iteration"], found["version"]
        return found

    def resume(self, iteration: int) -> dict[str, Any]:
        return {**self.restore(), "decisions": [ROLLBACK]}

    def rows_at(self, position: int) -> list[int]:
        return [(position + row) % 3 for row in range(3)]

    def _call(self) -> None:
        self.calls += 1
        if self.lost and self.calls in self.lost:
            raise GroupLost("the ranks died")

    def send(self, actors: Any, version: int, averaged: bool = False) -> None:
        self._call()
        assert version == self.changes

    def sync(self, send: Any, version: int) -> None:
        send([], version)
        self.version = version

    def draw(self, asked: dict[Any, tuple[int, int]]) -> list[tuple[Any, list[Completion]]]:
        """All that was asked, at once."""
        self._call()
        self.completions.append((self.version, next(iter(asked.values()))[1]))
        return [(key, [Completion([3], [-0.5], "", "stop")] * num) for key, (num, _) in asked.items()]

    def one_score(self, place: int) -> Score | Unscored:
        return Score(float(place), "")

    def score(self, experience: Any, needs: Any) -> Any:
        return experience

    def update(self, iteration: int, experience: Any) -> dict[str, Any]:
        self.asked.append(tuple(experience.rows))
        if self.lost is None:
            # the group counts its deaths
            raise GroupLost("the ranks died") if self.built < 4 else PlacementError("died without a new step")
        if self.spike and iteration == 1 and experience.position == 1:
            return {"decision": self.spike}
        self.updates, self.changes = self.updates + 1, self.changes + (bool(experience.samples) and self.finite)
        return {"finite": self.finite}

    def save(self, iteration: int, facts: dict[str, Any], rows: list[dict[str, Any]]) -> None:
        self.saved.append({**facts, "iteration": iteration, "rows": [row["step"] for row in rows]})

    def export(self) -> Exported:
        return Exported(1, {}, [])

    def row(self, step: int, values: dict[str, Any]) -> None:
        self.rows.append({"step": step, **values})

    def rewind(self, step: int, rollback: bool) -> None:
        self.rewound.append(step)


class Drawing:
    """The generators of a party."""

    def __init__(self, party: Party) -> None:
        self.party, self.sync = party, party.sync
        self.asked: dict[Any, tuple[int, int]] = {}

    def submit(self, key: Any, tokens: list[int], num: int, temperature: float, seed: int, most: int | None) -> None:
        self.asked[key] = (num, seed)

    def wait(self, timeout_s: float) -> list[tuple[Any, list[Completion]]]:
        asked, self.asked = self.asked, {}
        return self.party.draw(asked)

    def cancel(self, key: Any) -> None:
        self.asked.pop(key, None)

    def sleep(self) -> None:
        self.party.naps.append("sleep")

    def wake(self) -> None:
        self.party.naps.append("wake")


class Scoring:
    """The reward workers of a party."""

    def __init__(self, party: Party) -> None:
        self.party = party
        self.done: list[tuple[Any, list[Rollout]]] = []

    def submit(self, key: Any, prompt: Prompt, trajectories: Any) -> None:
        found = []
        for place, one in enumerate(trajectories):
            score = self.party.one_score(place)
            either = (score, None) if isinstance(score, Score) else (None, score)
            found.append(Rollout(prompt, one, *either))
        self.done.append((key, found))

    def poll(self, timeout_s: float) -> list[tuple[Any, list[Rollout]]]:
        done, self.done = self.done, []
        return done

    def cancel(self, key: Any) -> None:
        self.done = [one for one in self.done if one[0] != key]


def run(party: Any, **table: Any) -> list[dict[str, Any]]:
    """The rows that a run of the loop logs."""
    with tempfile.TemporaryDirectory() as at:
        ledger = SampleLedger(Folder(f"{at}/work"), Folder(f"{at}/out"))
        cfg = config(**table)
        with Seen(cfg, Folder(f"{at}/out")) as seen:
            loop = Loop(cfg, Drawing(party), Scoring(party), party, PROMPTS, [PROMPTS[0]], party, ledger, seen)
            party.after = loop.run()
        folder = folder_of(Folder(f"{at}/out"))
        party.kept = [row for iteration in iterations_in(folder) for row in read(folder, iteration)]
        party.answered = iterations_in(folder, HELD_OUT)
        party.ledger = read_parquet(Folder(f"{at}/out"), SAMPLES).to_pylist()
    return party.rows


def test_a_trainer_that_is_lost_again_and_again_ends_the_run():
    party: Any = Party(lost=None)
    with pytest.raises(PlacementError, match="without a new step"):
        run(party)
    assert party.built == 4 and party.rewound == [0] * 4


def test_a_trainer_that_is_lost_in_any_phase_goes_on_from_its_last_checkpoint():
    """An undisturbed run of 3 iterations calls 9 times: send, measure, 3 x (generate, send), measure."""
    calm: Any = Party()
    rows = run(calm)
    assert calm.calls == 9 and calm.built == 1
    for at in range(1, 10):
        party: Any = Party(lost=(at,))
        found = {row["step"]: row for row in run(party)}
        assert list(found) == [row["step"] for row in rows] and party.built == 2
        assert set(party.completions) == set(calm.completions) and party.saved[-1] == calm.saved[-1]


@pytest.mark.parametrize("lost", [(), (6,), (8,), (12,)])
def test_rollouts_and_greedy_answers_are_kept_once_whatever_is_lost(lost):
    party: Any = Party(lost=lost)
    rows = {row["step"]: row for row in run(party, iterations=6, held_out_every=2, save_every=1)}
    # before the first, every second and after the last one
    assert party.answered == [0, 2, 4, 6]
    assert [step for step, row in rows.items() if "held_out_reward" in row] == [1, 3]
    group = config().algorithm.num_generations
    assert [row["iteration"] for row in party.kept] == [at for at in range(6) for _ in range(3 * group)]
    assert all(rows[at]["reward"] == (group - 1) / 2 and rows[at]["learned_share"] == 1.0 for at in range(6))
    first = [row for row in party.kept if row["iteration"] == 0 and row["row"] == 0]
    assert sorted(row["score"] for row in first) == list(range(group)) and first[0]["advantage"] is not None


def test_iterations_optimizer_steps_and_versions_are_three_numbers():
    class Sometimes(Party):
        def one_score(self, place: int) -> Score:
            return Score(float(place if self.updates != 1 else 0), "")

    party: Any = Sometimes()
    rows = run(party, iterations=4, save_every=1)
    assert [(row["step"], row["version"], row["samples"] > 0) for row in rows] == [
        (0, 0, True), (1, 1, False), (2, 1, True), (3, 2, True),
    ]  # fmt: skip
    assert [(each["iteration"], each["version"], each["rows"]) for each in party.saved] == [
        (1, 1, [0]), (2, 1, [1]), (3, 2, [2]), (4, 3, [3]),
    ]  # fmt: skip


@pytest.mark.parametrize(("decision", "rewound"), [(SKIP, [0]), (ROLLBACK, [0, 1])])
def test_a_spike_passes_over_its_prompts_and_not_over_its_iteration(decision, rewound):
    party: Any = Party()
    party.spike = decision
    rows = run(party, spikes={})
    assert [row["step"] for row in rows] == [0, 1, 2] and "spike at step 1" in rows[1]["event"]
    assert party.rewound == rewound and party.saved[0]["iteration"] == 1, "a rollback needs a place to go back to"
    assert party.asked == [(0, 1, 2), (1, 2, 0), (2, 0, 1), (0, 1, 2)]


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


def test_weights_that_did_not_change_are_not_sent():
    party: Any = Party()
    party.finite = False
    with pytest.raises(TrainingError, match="not learned from"):
        run(party)
    # send and measure at the start, then three draws
    assert party.calls == 5 and {row["version"] for row in party.rows} == {0}


def test_generators_sleep_while_the_trainer_works_and_are_woken_where_no_weights_come():
    party: Any = Party()
    run(party, generator={"sleeps": True})
    assert party.naps == ["sleep"] * 3
    party = Party()
    party.spike = SKIP
    run(party, generator={"sleeps": True})
    # the skipped batch wakes those who got no weights, and its iteration is asked again
    assert party.naps == ["sleep", "sleep", "wake", "sleep", "sleep"]
    with pytest.raises(ValueError, match="generate nothing beside it"):
        config(generator={"sleeps": True}, async_rollouts={"max_staleness": 1})


def test_advantages_of_another_length_than_the_completion_are_refused():
    sample = Sample(3, [1, 2, 5, 6], 2, [-0.1, -0.2], 1.0)
    check_advantages([sample._replace(advantages=[1.0, 1.0])])
    for advantages, said in (([], "0"), ([1.0], "1"), (0.5, "0.5")):
        with pytest.raises(StageError, match=f"has 2 tokens, its advantages are {said}") as caught:
            check_advantages([sample._replace(advantages=advantages)])
        assert "prompt 3" in caught.value.where


def test_completions_of_other_weights_than_those_sent_are_refused():
    drawn = Completion([3], [-0.5], "", "stop", (VersionSpan(1, 0, 1), VersionSpan(2, 1, 2)))
    check_versions([[drawn], [Completion([3], [-0.5], "", "stop")]], 2)
    with pytest.raises(StageError, match="drawn by version 2 of the weights, the trainer sent version 3"):
        check_versions([[drawn]], 3)


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
    rows = run(party)
    after = party.after
    assert "held_out_reward_after" not in after and after["held_out_unscored_after"] == 1  # one answer to one prompt
    row = rows[0]
    assert (row["unscored"], row["unscored_not_finite"]) == (3, 3)
    assert row["reward"] == 4.0  # 1 to 7 of 8
