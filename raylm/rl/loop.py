"""The RL loop, on the driver.

prompts(iteration) --> generators.generate --> rewards.score --> algorithm.advantages --> trainer.update
                             ^                                                                  |
                             +------------------- weights, version -----------------------------+

A lost rank takes the loop back to the newest step checkpoint. A lost generator does not: `inference/pool.py` hands a fresh one
the trainer's weights and asks again what was asked of the lost one. An iteration takes one optimizer step, or none where its
samples teach nothing; each step that was finite makes a new version of the weights.
"""

from __future__ import annotations

import sys
import time
from functools import partial
from typing import Any

from raylm.core.config import digest_of, resolve
from raylm.core.errors import GroupLost
from raylm.rl.config import RL
from raylm.rl.iterations import Iterations, reward_metrics
from raylm.rl.placement import Generators, TrainerGroup
from raylm.rl.reward_workers import RewardWorkers
from raylm.rl.rollout_metrics import experience_metrics
from raylm.rl.seen import Seen
from raylm.rl.types import Prompt, Rollout, check_advantages, experience_of
from raylm.trainer.recorder import Recorder
from raylm.trainer.spikes import in_words, position_of


class Loop:
    """One run of the loop.

    Args:
        prompts: those to learn from, by row.
        held_out: those to measure on.
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
        seen: Seen | None = None,
    ) -> None:
        self._cfg, self._generators, self._rewards, self._trainer = cfg, generators, rewards, trainer
        self._prompts, self._held_out, self._recorder = prompts, held_out, recorder
        self._seen = seen
        self._algorithm: Any = resolve(cfg.algorithm)
        self._iterations = Iterations()
        self._iteration = self._version = 0
        self._before: dict[str, float] = {}
        self.decisions: list[dict[str, Any]] = []
        """What was decided about spikes."""
        self.exported: Any = None
        """What was written, see `trainer.Exported`."""
        self._events: list[str] = []
        self._unsaved: list[dict[str, Any]] = []

    def run(self) -> dict[str, float]:
        """Go on from the newest step checkpoint to the last iteration, and export; held-out metrics, before and after.

        Raises:
            StageError: nothing could be scored in an iteration.
            TrainingError: iteration after iteration, or in the whole run, nothing was learned; or spikes ended it.
            PlacementError: trainer or generator were lost again and again.
        """
        while True:
            try:
                self._go_on(self._trainer.restore())
                while self._iteration < self._cfg.iterations:
                    self._iterate()
                return self._finish()
            except GroupLost as lost:
                print(f"  {lost.what}: back to the newest step checkpoint", file=sys.stderr)

    def _iterate(self) -> None:
        clock = [time.perf_counter()]
        position = position_of(self.decisions, self._iteration)
        prompts = [self._prompts[row] for row in self._trainer.rows_at(position)]
        # a draw depends on seed, position and row alone: a resumed run draws what the uninterrupted one would have drawn
        seeds = [int(digest_of([self._cfg.seed, position, prompt.row])[:12], 16) for prompt in prompts]
        completions = self._generators.generate(prompts, seeds, self._algorithm.num_generations, self._cfg.temperature)
        clock.append(time.perf_counter())
        rollouts = self._rewards.score(prompts, completions)
        self._iterations.check_scores(rollouts, f"iteration {self._iteration}")
        clock.append(time.perf_counter())
        experience = experience_of(rollouts, [prompt.row for prompt in prompts], position)
        experience = self._algorithm.advantages(experience)
        check_advantages(experience.samples)
        stats = self._trainer.update(self._iteration, experience)
        clock.append(time.perf_counter())
        if "decision" in stats:
            self._pass_over(stats["decision"])
            return
        version = self._version
        if experience.samples and stats["finite"]:
            self._version += 1
            self._sync()
        clock.append(time.perf_counter())
        # an iteration whose groups all scored alike has no samples, hence no KL and no other figure of the algorithm
        counts = {"samples": len(experience.samples), "version": version}
        row = {**self._rewarded(rollouts), **experience_metrics(rollouts, experience, version), **counts, **stats}
        row |= {**(experience.metrics or {}), **_seconds(clock), **self._measured(self._iteration + 1)}
        if self._seen:
            self._seen.add(self._iteration, rollouts, experience, row)
        self._record(row)
        self._iterations.count(self._iteration, rollouts, len(experience.samples), bool(stats["finite"]))
        self._iteration += 1
        if self._is_due():
            facts = {"before": self._before, "learned": self._iterations.learned, "version": self._version}
            self._trainer.save(self._iteration, facts, self._unsaved)
            self._unsaved = []

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

    def _pass_over(self, decision: dict[str, Any]) -> None:
        """The batch of this iteration was a spike: go on with the next one, or back to a step checkpoint and behind it."""
        self._events.append(in_words(decision))
        if decision["what"] == "rollback":
            self._go_on(self._trainer.resume(decision["to"]), rollback=True)
        else:
            self.decisions.append(decision)

    def _go_on(self, found: dict[str, Any], rollback: bool = False) -> None:
        """Go on from what a step checkpoint says; from the start where there was none."""
        self._iteration, self._version = found["iteration"], found.get("version", 0)
        self.decisions, self._unsaved = found["decisions"], []
        self._sync()
        self._recorder.rewind(self._iteration, rollback)
        self._iterations.go_on_from(found.get("learned", 0))
        self._before = found["before"] if "before" in found else self._measure(0)

    def _finish(self) -> dict[str, float]:
        """Measure what is exported, the moving averages where they are kept, and export it."""
        self._iterations.check_end()
        if self._cfg.ema is not None:
            self._sync(averaged=True)
        after = self._measure(self._cfg.iterations)
        self.exported = self._trainer.export()
        return {
            **{f"{name}_before": value for name, value in self._before.items()},
            **{f"{name}_after": value for name, value in after.items()},
        }

    def _measured(self, iteration: int) -> dict[str, float]:
        """`_measure`, where it is due before `iteration`; before the first and after the last one it is in any case."""
        every = self._cfg.held_out_every
        return self._measure(iteration) if every and iteration % every == 0 and iteration < self._cfg.iterations else {}

    def _measure(self, iteration: int) -> dict[str, float]:
        """Mean reward of greedy answers to the held-out prompts, by the weights with which `iteration` begins."""
        if not self._held_out:
            return {}
        answers = self._generators.generate(self._held_out, [0] * len(self._held_out), 1, 0.0)
        rollouts = self._rewards.score(self._held_out, answers)
        self._iterations.say(rollouts, "the held-out prompts")
        if self._seen:
            self._seen.add_held_out(iteration, rollouts, self._version)
        return {f"held_out_{name}": value for name, value in self._rewarded(rollouts).items()}

    def _rewarded(self, rollouts: list[Rollout]) -> dict[str, float]:
        """`reward_metrics`, without a reward where none is asked."""
        found = reward_metrics(rollouts)
        return found if self._cfg.rewards else {name: value for name, value in found.items() if "reward" not in name}

    def _sync(self, averaged: bool = False) -> None:
        """Let the generators hold the trainer's weights, or their moving averages."""
        self._generators.sync(partial(self._trainer.send, averaged=averaged), self._version)


def _seconds(clock: list[float]) -> dict[str, float]:
    """Where the time of an iteration went."""
    names = ("generate_s", "reward_s", "update_s", "sync_s")
    return {name: round(after - before, 3) for name, before, after in zip(names, clock, clock[1:], strict=False)}
