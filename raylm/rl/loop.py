"""The RL loop, on the driver.

batches.take(iteration) --> trainer.score --> algorithm.advantages --> trainer.update --> generators.sync
      ^  rollouts: generators, environment, rewards                                             |
      +------------------------------- weights, version ----------------------------------------+

Iterations, optimizer steps and versions of the weights are three numbers: an iteration takes `epochs` x `minibatches` optimizer
steps, or none where its samples teach nothing; an iteration that changed weights makes a new version of them. With
`async_rollouts` the calls of the trainer run in a thread, and generation goes on meanwhile.

A lost rank takes the loop back to the newest step checkpoint, and what was in flight then is asked again. A lost generator does
not: `inference/pool.py` hands a fresh one the trainer's weights and asks again what was asked of the lost one.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from raylm.core.config import resolve
from raylm.core.errors import GroupLost, RaylmError
from raylm.rl.batches import Batch, Batches
from raylm.rl.clock import Clock
from raylm.rl.config import RL
from raylm.rl.iterations import Iterations, reward_metrics
from raylm.rl.order import Ask, Order
from raylm.rl.placement import Generators, TrainerGroup
from raylm.rl.reward_workers import RewardWorkers
from raylm.rl.rollout_metrics import experience_metrics
from raylm.rl.rollouts import Rollouts
from raylm.rl.sample_ledger import NOT_FINITE, PASSED_OVER, REJECTED, TRAINED, TRUNCATED, SampleLedger
from raylm.rl.seen import Seen
from raylm.rl.types import Experience, Prompt, Rollout, check_advantages, experience_of
from raylm.trainer.recorder import Recorder
from raylm.trainer.spikes import in_words, position_of

if TYPE_CHECKING:
    from raylm.rl.conversations import Conversations

Result = TypeVar("Result")
GLANCE_S = 0.01
"""Longest look at generation before it is seen that the trainer is done."""
STEPS_TAKEN = "optimizer_steps"
UNTAUGHT = "untaught"
"""What the trainer says of samples that no step learned from, see `PolicyTrainer.learn`; no metric."""


class Loop:
    """One run of the loop.

    Args:
        prompts: those to learn from, by row.
        held_out: those to measure on.
        ledger: what became of every sample.
        conversations: with an environment; None: a trajectory is one completion.
    """

    def __init__(
        self,
        cfg: RL,
        generators: Generators,
        rewards: RewardWorkers,
        trainer: TrainerGroup,
        prompts: dict[int, Prompt],
        held_out: list[Prompt],
        recorder: Recorder,
        ledger: SampleLedger,
        seen: Seen | None = None,
        conversations: Conversations | None = None,
    ) -> None:
        self._cfg, self._generators, self._trainer = cfg, generators, trainer
        self._held_out, self._recorder, self._ledger, self._seen = held_out, recorder, ledger, seen
        card: Any = resolve(cfg.algorithm)
        self._algorithm, self._needs = card, getattr(card, "needs", ())
        self._rewards_asked = bool(cfg.rewards) or bool(cfg.environment and getattr(resolve(cfg.environment), "rewarded", False))
        self._clock = Clock()
        timeout_s = cfg.rollout_timeout_s
        self._rollouts = Rollouts(generators, rewards, card.num_generations, cfg.temperature, timeout_s, conversations)
        self._order = Order(trainer.rows_at)
        self._batches = Batches(cfg, self._rollouts, prompts, self._order)
        self._thread = ThreadPoolExecutor(1, "raylm-trainer") if cfg.async_rollouts else None
        self._iterations = Iterations()
        self._iteration = self._version = self._steps = 0
        self._state: dict[str, float] | None = None
        self._before: dict[str, float] = {}
        self.decisions: list[dict[str, Any]] = []
        """What was decided about spikes."""
        self.exported: Any = None
        """What was written, see `trainer.Exported`."""
        self._events: list[str] = []
        self._unsaved: list[dict[str, Any]] = []

    @property
    def unseen(self) -> int:
        """Iterations whose rollouts could not be kept."""
        return self._seen.lost if self._seen else 0

    def run(self) -> dict[str, float]:
        """Go on from the newest step checkpoint to the last iteration, and export; held-out metrics, before and after.

        Raises:
            StageError: nothing could be scored in an iteration.
            TrainingError: iteration after iteration, or in the whole run, nothing was learned; or spikes ended it.
            PlacementError: trainer or generator were lost again and again.
        """
        try:
            while True:
                try:
                    self._go_on(self._trainer.restore())
                    while self._iteration < self._cfg.iterations:
                        self._iterate()
                    return self._finish()
                except GroupLost as lost:
                    print(f"  {lost.what}: back to the newest step checkpoint", file=sys.stderr)
        finally:
            if self._thread:
                self._thread.shutdown(wait=False)

    def _iterate(self) -> None:
        self._clock.start()
        with self._clock.phase("generate_s"):
            batch = self._batches.take(self._iteration, self._version, position_of(self.decisions, self._iteration))
        self._clock.move(self._rollouts.taken("reward_s"), "generate_s", "reward_s")
        if self._cfg.generator.sleeps:
            self._generators.sleep()
        self._iterations.check_scores(batch.rollouts, f"iteration {self._iteration}")
        experience = self._experience(batch)
        if self._needs:
            experience = self._beside("score_s", partial(self._trainer.score, experience, self._needs))
        given, experience = experience.samples, self._algorithm.advantages(experience)
        check_advantages(experience.samples)
        rejected, learned = batch.rejected(given, experience.samples), experience
        if self._cfg.truncated:
            learned = self._cfg.truncated.left_in(experience, getattr(self._algorithm, "weighed", None))
        stats = self._beside("update_s", partial(self._trainer.update, self._iteration, learned))
        if "decision" in stats:
            self._pass_over(stats["decision"], batch)
            self._wake()
            return
        version, self._state, finite = self._version, experience.state, bool(stats["finite"])
        changed = bool(learned.samples) and stats.get("changed", finite)
        self._steps = stats.get(STEPS_TAKEN, self._steps + changed)
        if changed:
            self._version += 1
            self._sync()
        else:
            self._wake()
        outcomes = batch.outcomes(rejected, REJECTED) | batch.outcomes(experience.samples, TRUNCATED)
        outcomes |= batch.outcomes(learned.samples, TRAINED if finite else NOT_FINITE) | batch.found(stats.pop(UNTAUGHT, {}))
        self._ledger.add(self._iteration, batch.asked, outcomes, version, self._steps)
        # an iteration whose groups all scored alike has no samples, hence no KL and no other figure of the algorithm
        counts = {"samples": len(learned.samples), "version": version, **self._batches.counts(batch)}
        row = {**self._rewarded(batch.rollouts), **experience_metrics(batch.rollouts, learned, version), **counts}
        row |= {**stats, **(learned.metrics or {}), **self._clock.stop(), "generator_idle_s": self._rollouts.taken("idle_s")}
        row |= self._measured(self._iteration + 1)
        if self._seen:
            self._seen.add(self._iteration, batch.rollouts, learned, row)
        self._record(row)
        masked = len(experience.samples) - len(learned.samples)
        self._iterations.count(self._iteration, batch.rollouts, len(learned.samples), finite, masked, len(rejected), changed)
        self._iteration += 1
        if self._is_due():
            self._save()

    def _wake(self) -> None:
        """No weights come that would wake generators which gave back their memory: they take those that they had."""
        if self._cfg.generator.sleeps:
            self._generators.wake()

    def _experience(self, batch: Batch) -> Experience:
        """The samples of an iteration, without advantages."""
        asked = batch.asked
        rows, positions = [group.prompt.row for group in asked], [group.ask.position for group in asked]
        drawn = [rollout for group in batch.groups for rollout in group.rollouts]
        return experience_of(drawn, rows, min(positions))._replace(state=self._state, positions=positions)

    def _beside(self, name: str, call: Callable[[], Result]) -> Result:
        """Result of a call that the trainer works on; generation goes on meanwhile where it may."""
        with self._clock.phase(name):
            if self._thread is None:
                return call()
            future = self._thread.submit(call)
            try:
                while not future.done():
                    self._batches.keep_going(GLANCE_S)
                    wait([future], timeout=0.0 if self._rollouts.under_way else GLANCE_S)
            except RaylmError:
                future.exception()  # waits: ranks take one call at a time
                raise
            return future.result()

    def _record(self, values: dict[str, Any]) -> None:
        """The row of this iteration."""
        if self._events:
            values["event"], self._events = "; ".join(self._events), []
        self._recorder.row(self._iteration, values)
        self._unsaved.append({"step": self._iteration, **values})

    def _is_due(self) -> bool:
        """Whether a step checkpoint is to be written after this iteration."""
        cfg, done = self._cfg, self._iteration
        due = done % cfg.save_every == 0 or (cfg.keep_every is not None and done % cfg.keep_every == 0)
        # a rollback needs a place to go back to, early on too
        return due or done == cfg.iterations or (cfg.spikes is not None and done == 1)

    def _save(self) -> None:
        """One step checkpoint: beside the trainer's own state all that a new process needs to go on as this one would."""
        facts = {
            "before": self._before,
            "learned": self._iterations.learned,
            "version": self._version,
            "rollouts": self._batches.state(),
            **({"algorithm_state": self._state} if self._state else {}),
        }
        self._ledger.put(self._iteration)
        self._beside("update_s", partial(self._trainer.save, self._iteration, facts, self._unsaved))
        self._unsaved = []

    def _pass_over(self, decision: dict[str, Any], batch: Batch) -> None:
        """The batch of this iteration was a spike: go on with the next one, or back to a step checkpoint and behind it."""
        self._events.append(in_words(decision))
        if decision["what"] == "rollback":
            self._go_on(self._trainer.resume(decision["to"]), rollback=True)
        else:
            self._ledger.add(self._iteration, batch.asked, batch.outcomes(None, PASSED_OVER), self._version, self._steps)
            self.decisions.append(decision)

    def _go_on(self, found: dict[str, Any], rollback: bool = False) -> None:
        """Go on from what a step checkpoint says; from the start where there was none."""
        self._iteration, self._version = found["iteration"], found.get("version", 0)
        self._steps, self._state = found.get(STEPS_TAKEN, 0), found.get("algorithm_state")
        self.decisions, self._unsaved = found["decisions"], []
        self._batches.go_on_from(self._iteration, position_of(self.decisions, self._iteration), found.get("rollouts", {}))
        self._ledger.rewind(self._iteration)
        self._sync(alone=True)
        self._recorder.rewind(self._iteration, rollback)
        self._iterations.go_on_from(found.get("learned", 0))
        self._before = found["before"] if "before" in found else self._measure(0)

    def _finish(self) -> dict[str, float]:
        """Measure what is exported, the moving averages where they are kept, and export it."""
        self._iterations.check_end()
        if self._cfg.ema is not None:
            self._sync(averaged=True, alone=True)
        after = self._measure(self._cfg.iterations)
        self._ledger.finish(self._cfg.iterations, self._asked())
        self.exported = self._trainer.export()
        return {
            **{f"{name}_before": value for name, value in self._before.items()},
            **{f"{name}_after": value for name, value in after.items()},
        }

    def _asked(self) -> set[Ask]:
        """All prompts that the run was to ask, less those that were passed over."""
        if not self._batches.in_order:
            return self._order.asked()
        positions = [position_of(self.decisions, iteration) for iteration in range(self._cfg.iterations)]
        return {Ask(position, row) for position in positions for row in self._trainer.rows_at(position)}

    def _measured(self, iteration: int) -> dict[str, float]:
        """`_measure`, where it is due before `iteration`; before the first and after the last one it is in any case."""
        every = self._cfg.held_out_every
        return self._measure(iteration) if every and iteration % every == 0 and iteration < self._cfg.iterations else {}

    def _measure(self, iteration: int) -> dict[str, float]:
        """Mean reward of greedy answers to the held-out prompts, by the weights with which `iteration` begins."""
        if not self._held_out:
            return {}
        rollouts = self._rollouts.greedy(self._held_out, self._version)
        self._iterations.say(rollouts, "the held-out prompts")
        if self._seen:
            self._seen.add_held_out(iteration, rollouts, self._version)
        return {f"held_out_{name}": value for name, value in self._rewarded(rollouts).items()}

    def _rewarded(self, rollouts: list[Rollout]) -> dict[str, float]:
        """`reward_metrics`, without a reward where none is asked."""
        found = reward_metrics(rollouts)
        return found if self._rewards_asked else {name: value for name, value in found.items() if "reward" not in name}

    def _sync(self, averaged: bool = False, alone: bool = False) -> None:
        """Let the generators hold the trainer's weights, or their moving averages; what is under way goes on with them.

        Args:
            alone: nothing is asked meanwhile.
        """
        asynchronous = self._cfg.async_rollouts
        if asynchronous and not asynchronous.in_flight_updates:
            self._batches.drain()
        self._rollouts.newest = self._version
        sync = partial(self._generators.sync, partial(self._trainer.send, averaged=averaged), self._version)
        if alone:
            sync()
        else:
            self._beside("sync_s", sync)
        self._batches.holds(self._version)
