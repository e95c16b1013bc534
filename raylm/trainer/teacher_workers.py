"""Teachers on workers of their own: they answer the rows of the next step while the student learns from those of this one.

    rank: ask(rows of step n + 1) --> teacher worker: scorer.score(rows)
          learn from step n               |
          answers(step n + 1) <-----------'

Ranks that share a model ask for the same rows: a worker keeps its last answers, and computes them once. One that dies is started
again by Ray, and asked again.
"""

from __future__ import annotations

import hashlib
import pickle
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from raylm.core.config import Role, WorkerSpec, digest_of
from raylm.core.errors import PlacementError
from raylm.core.workers import Workers
from raylm.trainer.stored_scores import Scored, Scorer

TEACHER = "teacher"
"""Role of these workers in their stage."""
MOST_RESTARTS = 3
"""Deaths of one worker that are survived."""
ANSWER_S = 600.0
"""Seconds that a rank waits for the answer to a micro batch, the load of the model included."""
KEPT_BYTES = 256 << 20
"""Of answers that a worker keeps, beside the last one: ranks of one model ask for the same rows, not at the same time."""


class TeacherWorker:
    """A frozen model that scores rows. A Ray actor."""

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer
        self._kept: OrderedDict[bytes, list[Scored]] = OrderedDict()

    def score(self, rows: Sequence[dict[str, Any]]) -> list[Scored]:
        """What is said of each row."""
        asked = hashlib.blake2b(pickle.dumps(list(rows))).digest()
        if asked not in self._kept:
            self._kept[asked] = self._scorer.score(rows)
            while len(self._kept) > 1 and sum(map(_num_bytes, self._kept.values())) > KEPT_BYTES:
                self._kept.popitem(last=False)
        return self._kept[asked]


def _num_bytes(scored: list[Scored]) -> int:
    return sum(getattr(values, "nbytes", 0) for row in scored for values in row.values())


class Teachers:
    """The workers, as ranks ask them. It pickles to them."""

    def __init__(self, actors: list[Any]) -> None:
        self._actors = actors

    def ask(self, at: int, rows: Sequence[dict[str, Any]]) -> Any:
        """Begin to ask worker `at`, counted on beyond the last one; `answers` has what it says."""
        return self._actors[at % len(self._actors)].score.remote(list(rows))

    def answers(self, reference: Any) -> list[Scored]:
        """What was said of each row.

        Raises:
            PlacementError: a worker died again and again, or does not answer.
            RaylmError: what it raised.
        """
        import ray
        from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

        try:
            return ray.get(reference, timeout=ANSWER_S)
        except GetTimeoutError as cause:
            raise PlacementError(f"a teacher has not answered for {ANSWER_S:.0f} s", where=TEACHER, next=_NEXT) from cause
        except RayActorError as cause:
            raise PlacementError(f"a teacher died more than {MOST_RESTARTS} times", where=TEACHER, next=_NEXT) from cause
        except RayTaskError as cause:
            # without Ray's wrapping, whose class cannot be made again everywhere
            raise cause.cause from None


_NEXT = 'scorers = {...} gives each more room; teacher_scores = "live" lays the teacher over all ranks'


def hold_teachers(workers: Workers, scorer: Scorer, spec: WorkerSpec, beside: dict[str, Role]) -> Teachers:
    """`spec.count` workers that hold the model of `scorer`; those that are held already, where they do.

    Args:
        beside: roles that work at the same time: on a shared cluster the stage gets places for all or none.
    """
    import ray

    role = spec.role()
    workers.reserve({**beside, TEACHER: role}, "the ranks and their teachers")
    key = f"{TEACHER}:{digest_of(scorer.identity())} {spec.model_dump_json()};"
    if not workers.holds(key):
        workers.release(f"{TEACHER}:")

    def start() -> list[Any]:
        remote: Any = ray.remote(TeacherWorker)
        options = {"num_cpus": spec.cpus, "num_gpus": spec.gpus, "max_restarts": MOST_RESTARTS, "max_task_retries": MOST_RESTARTS}
        return [
            remote.options(**options, scheduling_strategy=workers.place(TEACHER, role, "the teachers", at)).remote(scorer)
            for at in range(spec.count)
        ]

    return Teachers(workers.hold(key, start, _end))


def _end(actors: list[Any]) -> None:
    import ray

    for actor in actors:
        ray.kill(actor)
