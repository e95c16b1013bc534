"""Runs the trials of a sweep: Ray Tune draws values and stops what is worse (ASHA), this process trains, one trial at a time.

Ray Tune (thread) --values--> proxy (actor of the trial) --> desk (actor) --> this thread: stage.run on ranks that stay warm
        ^------- rows -------- proxy <----------------------- desk <--------- rows of the metric
        stop --> callback --> the stage is stopped as by Ctrl-C: its ranks leave the trial and take the next one

A trial that trained inside its own Tune actor would start its own ranks: seconds of imports for each, and a stop would kill them.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import ray
from ray import tune
from ray.tune.error import TuneError
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler
from ray.tune.search import BasicVariantGenerator

from raylm.core.errors import PlacementError

POLL_S = 0.1
END_S = 30.0
"""Seconds that Ray Tune has to end."""
DECIDE_S = 30.0
"""Seconds that a row waits for Ray Tune to decide what it means."""
STOPPED: set[str] = set()
"""Trials that Ray Tune has ended, in this process."""
BREAK = threading.Event()
"""Set where the sweep is broken off: Ray Tune is to end."""


class TrialStopped(KeyboardInterrupt):
    """Ray Tune stopped the trial that runs: its ranks are asked to leave, as they are at Ctrl-C."""


class Search(NamedTuple):
    """What Ray Tune is asked."""

    space: dict[str, Any]
    samples: int
    """Times that the space is drawn from; 1 for a grid."""
    metric: str
    mode: str
    steps: int
    """Length of a trial."""
    grace: int | None
    """Least steps before a trial may be stopped; None stops none."""
    reduction: int
    """Of the trials that reach a rung, one in so many goes on."""
    seed: int


class Desk:
    """Where the actors of trials and the process that trains meet."""

    def __init__(self) -> None:
        self._asked: list[tuple[str, dict[str, Any]]] = []
        self._rows: dict[str, list[dict[str, Any]]] = {}
        self._ends: dict[str, str] = {}
        self._seen: dict[str, int] = {}
        self._given: dict[str, int] = {}

    def ask(self, trial: str, values: dict[str, Any]) -> None:
        """A trial begins."""
        self._ends.pop(trial, None)
        self._rows[trial], self._seen[trial], self._given[trial] = [], 0, 0
        self._asked.append((trial, values))

    def next(self) -> tuple[str, dict[str, Any]] | None:
        """The trial to run next; None while there is none."""
        return self._asked.pop(0) if self._asked else None

    def add(self, trial: str, row: dict[str, Any]) -> int:
        """A row of the trial that runs; its number."""
        self._rows[trial].append(row)
        self._given[trial] += 1
        return self._given[trial]

    def take(self, trial: str) -> tuple[list[dict[str, Any]], str | None]:
        """New rows, and how the trial ended: "" well, an error's words, None not yet. Rows taken before have been decided on."""
        self._seen[trial] = self._given[trial] - len(self._rows[trial])
        rows, self._rows[trial] = self._rows[trial], []
        return rows, None if rows else self._ends.get(trial)

    def decided(self, trial: str) -> int:
        """Number of the last row after which the trial goes on."""
        return self._seen.get(trial, 0)

    def end(self, trial: str, words: str) -> None:
        """The trial has ended."""
        self._ends[trial] = words


def proxy(values: dict[str, Any], desk: Any = None) -> None:
    """What Ray Tune takes for a trial: hands its values to the desk, and the rows that come back to Ray Tune."""
    trial = str(tune.get_context().get_trial_id())
    ray.get(desk.ask.remote(trial, values))
    while True:
        rows, end = ray.get(desk.take.remote(trial))
        for row in rows:
            # returns when Ray Tune has decided that the trial goes on
            tune.report(row)
        if end:
            raise RuntimeError(end)
        if end is not None:
            return
        time.sleep(POLL_S)


def run_trials(search: Search, train: Callable[[dict[str, Any], Callable[..., None]], str]) -> None:
    """Run all trials. Equal searches draw equal values in the same order: what `train` knows from before it need only repeat.

    Args:
        train: runs the trial of some values and calls what it is handed with each row; an error's words, or "".

    Raises:
        PlacementError: Ray Tune itself failed.
    """
    remote: Any = ray.remote(Desk)
    desk = remote.options(num_cpus=0).remote()
    failed: list[BaseException] = []
    STOPPED.clear()
    BREAK.clear()
    with tempfile.TemporaryDirectory(prefix="raylm-sweep-") as folder:
        thread = threading.Thread(target=_fit, args=(search, folder, desk, failed), name="raylm-tune", daemon=True)
        thread.start()
        try:
            while thread.is_alive():
                if (asked := ray.get(desk.next.remote())) is None:
                    thread.join(timeout=POLL_S)
                    continue
                trial, values = asked
                words = ""
                with contextlib.suppress(TrialStopped):
                    words = train(values, _Heard(desk, trial).row)
                ray.get(desk.end.remote(trial, words))
        finally:
            BREAK.set()
            thread.join(timeout=END_S)
    ray.kill(desk)
    if failed:
        raise PlacementError(f"Ray Tune ended: {failed[0]}", where="raylm sweep", next="run the same command again: it goes on")


class _Heard:
    """Passes rows of the running trial on, and stops it where Ray Tune does."""

    def __init__(self, desk: Any, trial: str) -> None:
        self._desk, self._trial, self._stopping = desk, trial, False

    def row(self, row: dict[str, Any] | None) -> None:
        """Raises TrialStopped, once. None: only look whether it is over."""
        if self._stopping:
            return
        if row is not None:
            number, until = ray.get(self._desk.add.remote(self._trial, row)), time.monotonic() + DECIDE_S
            while self._trial not in STOPPED and ray.get(self._desk.decided.remote(self._trial)) < number:
                if time.monotonic() > until:
                    print(f"  Ray Tune has not decided on trial {self._trial} for {DECIDE_S:g} s: it goes on", file=sys.stderr)
                    break
                time.sleep(POLL_S)
        if self._trial in STOPPED:
            self._stopping = True
            raise TrialStopped


class Ends(tune.Callback):
    """Hears that a trial is over, and ends Ray Tune where the sweep is broken off."""

    def on_step_begin(self, iteration: int, trials: Any, **info: Any) -> None:
        if BREAK.is_set():
            raise RuntimeError("the sweep was broken off")

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        STOPPED.add(trial.trial_id)

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        STOPPED.add(trial.trial_id)


def _fit(search: Search, folder: str, desk: Any, failed: list[BaseException]) -> None:
    # it trains nothing itself; Ray Tune has no place for what asks for nothing at all
    trainable = tune.with_resources(tune.with_parameters(proxy, desk=desk), {"cpu": 0.01})
    scheduler = FIFOScheduler()
    if search.grace is not None:
        most = max(search.steps, search.grace)
        scheduler = ASHAScheduler("step", max_t=most, grace_period=search.grace, reduction_factor=search.reduction)
    tuner = tune.Tuner(
        trainable,
        param_space=search.space,
        tune_config=tune.TuneConfig(
            metric=search.metric,
            mode=search.mode,
            num_samples=search.samples,
            scheduler=scheduler,
            search_alg=BasicVariantGenerator(random_state=search.seed, max_concurrent=1),
            # an actor of a trial takes seconds to start, and has nothing that could be left over
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(name="tune", storage_path=folder, callbacks=[Ends()], verbose=0),
    )
    # a trial may fail, or end, before anything is measured; what is told of trials is told by the sweep
    os.environ |= {"TUNE_DISABLE_STRICT_METRIC_CHECKING": "1", "RAY_AIR_NEW_OUTPUT": "0"}
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    try:
        tuner.fit()
    except (TuneError, OSError, RuntimeError, ValueError) as cause:
        failed.append(cause)
