"""Generation beside training: staleness, resumes, dynamic sampling, and the ledger of samples over all of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from raylm.inference.completions import Sampling
from raylm.inference.pool import Pool
from raylm.inference.weight_transfer import send_weights
from raylm.rl.algorithms.grpo import Grpo
from raylm.rl.batches import Batches
from raylm.rl.order import Order
from raylm.rl.rollouts import Rollouts
from raylm.rl.types import Experience, Prompt
from tests.inference.small import Small
from tests.rl.world import MOST, Engines, Rewards, Stopped, World, number

ASYNC = {"max_staleness": 2}


def trained(world: World) -> list[tuple[Any, ...]]:
    return sorted(
        (one["iteration"], one["position"], one["row"], one["sample"]) for one in world.ledger if one["outcome"] == "trained"
    )


def asked(world: World) -> set[tuple[int, int]]:
    return {(one["position"], one["row"]) for one in world.ledger}


def whole_order(world: World, positions: int = 6) -> set[tuple[int, int]]:
    return {(position, row) for position in range(positions) for row in world.rows_at(position)}


def test_no_staleness_is_the_synchronous_run_bit_for_bit(tmp_path):
    calm = World(tmp_path / "a").run()
    beside = World(tmp_path / "b", async_rollouts={"max_staleness": 0}).run()
    assert beside.held == calm.held and beside.learned == calm.learned and beside.ledger == calm.ledger
    assert beside.rows == calm.rows and calm.oldest == 0 and asked(calm) == whole_order(calm)


@pytest.mark.parametrize("staleness", [1, 2, 4])
@pytest.mark.parametrize("in_flight", [True, False])
def test_what_is_learned_from_is_never_older_than_said(tmp_path, staleness, in_flight):
    world = World(
        tmp_path, iterations=12, held_out_every=5, async_rollouts={"max_staleness": staleness, "in_flight_updates": in_flight}
    ).run()
    assert 0 < world.oldest <= staleness
    assert asked(world) == whole_order(world, 12), "every prompt of the order was asked, none was lost"
    assert len(world.ledger) == 3 * len(asked(world)), "and each of its completions is accounted for once"
    for one in world.ledger:
        assert one["outcome"] in ("trained", "no_signal") and 0 <= one["version"] - one["lowest"] <= staleness
    mixed = any(one["lowest"] < one["highest"] for one in world.ledger)
    # whether an update meets one on its way is chance; that it may not is what is said
    assert in_flight or not mixed, "completions come to their end before an update"
    assert len({one["version"] for one in world.ledger}) > 6


@pytest.mark.parametrize("table", [{}, {"async_rollouts": ASYNC}, {"sampling": 3}])
def test_a_driver_that_dies_after_any_iteration_loses_no_prompt_and_learns_from_none_twice(tmp_path, table):
    calm = World(tmp_path / "calm", **table).run()
    for stop in range(6):
        world = World(tmp_path / str(stop), stop=stop, **table)
        with pytest.raises(Stopped):
            world.run()
        world.run()
        assert len({one[1:] for one in trained(world)}) == len(trained(world))
        assert sorted(world.rows) == list(range(6))
        if "async_rollouts" in table:
            assert asked(world) == whole_order(world) and world.oldest <= 2
        else:
            assert world.held == calm.held and world.ledger == calm.ledger


@pytest.mark.parametrize("table", [{}, {"async_rollouts": ASYNC}])
def test_a_trainer_lost_in_any_of_its_calls_costs_no_prompt(tmp_path, table):
    calm = World(tmp_path / "calm", **table).run()
    for at in range(1, calm.calls + 1):
        world = World(tmp_path / str(at), lost=(at,), **table).run()
        assert asked(world) == whole_order(world) and len(world.ledger) == 3 * len(asked(world))
        assert len({one[1:] for one in trained(world)}) == len(trained(world)) and world.oldest <= 2
        if not table:
            assert world.held == calm.held and world.ledger == calm.ledger


def test_what_was_in_flight_is_asked_again_once(tmp_path):
    world = World(tmp_path, stop=3, async_rollouts=ASYNC)
    with pytest.raises(Stopped):
        world.run()
    in_flight = world.saved[-1]["rollouts"]["again"]
    assert world.saved[-1]["iteration"] == 2 and in_flight
    world.run()
    again = [(one["position"], one["row"]) for one in world.ledger if one["iteration"] >= 2 and one["sample"] == 0]
    assert sorted(pair for pair in again if list(pair) in in_flight) == sorted(map(tuple, in_flight))


def test_groups_without_a_signal_are_replaced_until_the_iteration_is_full(tmp_path):
    world = World(tmp_path, sampling=4).run()
    assert [row["samples"] for row in world.rows.values()] == [12] * 6
    for iteration, row in world.rows.items():
        of = [one for one in world.ledger if one["iteration"] == iteration]
        assert row["prompts_asked"] == len(of) / 3
        assert row["prompts_without_signal"] == sum(one["outcome"] == "no_signal" for one in of) / 3
    asked_in_order = sorted(asked(world))
    last = asked_in_order[-1][0]
    assert {pair for pair in asked_in_order if pair[0] < last} == whole_order(world, last), "no prompt is passed over"


@pytest.mark.parametrize("table", [{"async_rollouts": ASYNC}, {"sampling": 3}, {}])
@pytest.mark.parametrize("at", [0, 2, 5])
def test_a_batch_that_is_passed_over_is_in_the_ledger_and_missing_from_nothing(tmp_path, table, at):
    class Spiky(World):
        def update(self, iteration: int, experience: Experience) -> dict[str, Any]:
            if iteration == at and not self.passed:
                self.passed.append(iteration)
                named = {"what": "skip", "step": at, "position": at, "to": at, "offset": 1, "rows": [1], "documents": []}
                return {"decision": {**named, "loss": 9.0, "loss_z": 20.0, "grad_norm": 1.0, "norm_z": 1.0}}
            return super().update(iteration, experience)

    world = Spiky(tmp_path, **table)
    world.passed = []
    world.run()
    of = [one for one in world.ledger if one["outcome"] == "passed_over"]
    assert of and {one["iteration"] for one in of} == {at} and sorted(world.rows) == list(range(6))
    assert len({(one["position"], one["row"], one["sample"]) for one in world.ledger}) == len(world.ledger)


def test_what_was_passed_over_before_the_first_step_checkpoint_leaves_no_gap(tmp_path):
    world = World(tmp_path, async_rollouts=ASYNC)
    engines: Any = Engines(world)
    rewards: Any = Rewards()
    rollouts = Rollouts(engines, rewards, 3, 1.0, None)
    batches = Batches(world.cfg, rollouts, {row: Prompt(row, [1, row], "[]", None) for row in range(48)}, Order(world.rows_at))
    batches.go_on_from(0, 1, {})
    batch = batches.take(0, 0, 1)
    assert min(group.ask.position for group in [*batch.groups, *batches.waiting]) == 0


def test_an_iteration_never_asks_more_batches_than_it_may(tmp_path):
    world = World(tmp_path, sampling=2, iterations=12).run()
    counts = [row["prompts_asked"] for row in world.rows.values()]
    assert 4 < max(counts) <= 8


def test_a_prompt_set_that_is_used_up_ends_the_refill(tmp_path, capsys):
    table = {"sampling": 9, "prompts_per_iteration": 40}
    world = World(tmp_path, **table).run()
    assert "has asked all 48 prompts" in capsys.readouterr().err
    assert max(row["prompts_asked"] for row in world.rows.values()) == 48


@pytest.mark.parametrize("table", [{}, {"async_rollouts": ASYNC}])
def test_a_prompt_that_never_comes_is_cut_at_its_deadline_and_counted(tmp_path, table):
    world = World(tmp_path, never=5, rollout_timeout_s=0.5, iterations=4, **table).run()
    of = [one for one in world.ledger if one["row"] == 5]
    assert of and all(one["outcome"] == "late" and one["tokens"] == 0 for one in of) and asked(world) == whole_order(world, 4)
    late = sum(one["outcome"] == "late" for one in world.ledger)
    assert sum(row.get("unscored_late", 0) for row in world.rows.values()) == late


@pytest.mark.parametrize("action", ["mask", "penalize"])
def test_cut_off_answers_are_masked_or_punished(tmp_path, action):
    plain = World(tmp_path / "plain", iterations=1, prompts_per_iteration=8).run()
    world = World(tmp_path / action, iterations=1, prompts_per_iteration=8, truncated={"action": action}).run()
    cut = [one for one in plain.ledger if one["tokens"] > MOST]
    assert cut and min(row["finished_share"] for row in plain.rows.values()) < 1
    if action == "mask":
        assert {one["outcome"] for one in world.ledger if one["tokens"] > MOST} <= {"truncated", "no_signal"}
        assert sum(row["samples"] for row in world.rows.values()) == sum(one["outcome"] == "trained" for one in world.ledger)
    else:
        first = [one for one in cut if one["iteration"] == 0]
        assert first and world.rows[0]["reward"] == pytest.approx(plain.rows[0]["reward"] - len(first) / 24)


class Counting(Grpo):
    """Counts its calls in what it keeps."""

    num_generations: int = 3

    def advantages(self, experience: Experience) -> Experience:
        calls = (experience.state or {}).get("calls", 0.0) + 1.0
        return super().advantages(experience)._replace(state={"calls": calls}, metrics={"calls": calls})


def test_what_an_algorithm_keeps_goes_from_iteration_to_iteration_and_over_a_resume(tmp_path):
    world = World(tmp_path, stop=3, algorithm={"kind": "custom", "path": f"{__name__}:Counting"})
    with pytest.raises(Stopped):
        world.run()
    assert world.saved[-1]["algorithm_state"] == {"calls": 2.0}
    world.run()
    assert [row["calls"] for _, row in sorted(world.rows.items())] == [1, 2, 3, 4, 5, 6]


def test_what_has_become_too_old_is_not_learned_from_and_counted(tmp_path):
    """It cannot come to this as long as each iteration makes one version; here three are made in between."""
    world = World(tmp_path, async_rollouts={"max_staleness": 1})
    engines: Any = Engines(world)
    rewards: Any = Rewards()
    rollouts = Rollouts(engines, rewards, 3, 1.0, None)
    batches = Batches(world.cfg, rollouts, {row: Prompt(row, [1, row], "[]", None) for row in range(48)}, Order(world.rows_at))
    batches.take(0, 0, 0)
    waiting = {group.number for group in batches.waiting}
    world.weights[3] = "later"
    engines.sync(lambda *_: None, 3)
    batches.holds(3)
    rollouts.newest = 3
    batch = batches.take(1, 3, 1)
    assert waiting and waiting <= {group.number for group in batch.groups}
    for group in batch.groups:
        kinds = {one.unscored.kind if one.unscored else "" for one in group.rollouts}
        assert kinds == ({"stale"} if group.number in waiting else {""})


@pytest.mark.ray
@pytest.mark.parametrize("ends", [4, 7, 12])
def test_a_generator_lost_in_any_phase_costs_no_prompt(tmp_path, workers, ends):
    """Behind the real pool: the process of one of two generators ends while it draws, or in the middle of an update."""
    import ray

    workers.ensure()

    class Pooled:
        """`placement.Generators` over a pool of generators without an engine."""

        def __init__(self, world: World) -> None:
            self.made: list[int] = []
            self._pool = Pool(self._make, 2)
            self._pool.start("somewhere", 64)
            self.wait, self.cancel = self._pool.wait, self._pool.cancel

        def _make(self, place: int) -> Any:
            self.made.append(place)
            return ray.remote(Small).options(num_cpus=0).remote(ends if len(self.made) == 1 else 0)

        def submit(self, key: Any, tokens: list[int], num: int, temperature: float, seed: int, most: Any) -> None:
            self._pool.submit(key, [*tokens, seed % 7], Sampling(n=num), seed)

        def sync(self, send: Any, version: int) -> None:
            self._pool.sync(send, version)

    class Sending(World):
        engines_of = Pooled

        def send(self, actors: Any, version: int, averaged: bool = False) -> Any:
            super().send(actors, version)
            return send_weights([("a", np.full(3, float(number(self.held)), np.float32))], actors, version, 20.0)

    world = Sending(tmp_path, iterations=4, prompts_per_iteration=6, async_rollouts=ASYNC).run()
    world.engines._pool.close()
    assert len(world.engines.made) == 3, "one was replaced"
    assert asked(world) == whole_order(world, 4) and len(world.ledger) == 3 * len(asked(world)) and world.oldest <= 2


@pytest.mark.parametrize("staleness", [1, 2])
def test_a_prompt_that_waits_is_not_asked_again_where_epochs_are_short(tmp_path, staleness):
    """Of two groups of one prompt an iteration takes one: the other could come too late."""
    for attempt in range(2):
        table = {"iterations": 8, "prompts_per_iteration": 20, "async_rollouts": {"max_staleness": staleness}}
        world = World(tmp_path / str(attempt), **table).run()
        assert {one["outcome"] for one in world.ledger} == {"trained", "no_signal"} and world.oldest <= staleness
        for iteration in range(8):
            rows = [one["row"] for one in world.ledger if one["iteration"] == iteration and one["sample"] == 0]
            assert len(rows) == len(set(rows)) > 0


def test_no_staleness_asks_nothing_ahead_while_a_step_checkpoint_is_written(tmp_path):
    """Positions at the end of an epoch name fewer prompts: what is asked ahead by the size of another would be lost."""
    table: dict[str, Any] = {"prompts_per_iteration": 20, "save_every": 1, "iterations": 6}
    calm = World(tmp_path / "a", **table).run()
    beside = World(tmp_path / "b", async_rollouts={"max_staleness": 0}, **table).run()
    assert len({len(calm.rows_at(position)) for position in range(6)}) > 1
    assert beside.ledger == calm.ledger and beside.held == calm.held
    assert len(beside.engines.asked) == len(calm.engines.asked), "nothing is drawn to be thrown away"
