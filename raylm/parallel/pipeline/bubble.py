"""The bubble of a pipeline schedule: the idle share of a step. No torch."""

from __future__ import annotations

from raylm.parallel.pipeline.schedule import Schedule


def bubble(schedule: Schedule, ranks: int, micros: int, virtual: int = 2) -> float:
    """Idle share of a step, from 0 to 1, when all stages take equally long and traffic takes no time.

    `1f1b` and `interleaved` by https://arxiv.org/abs/2104.04473, section 2.2: idle to busy time is (ranks - 1) / micros, divided
    by the stages per rank; below `ranks` micro batches interleaving cannot fill its groups. `zero_bubble` by
    https://arxiv.org/abs/2401.10241: where a forward pass and the two halves of a backward pass take equally long only the
    stagger of the start is left, (ranks - 1) beside 6 * micros halves of a stage; the paper does not count it, a synchronous step
    has it. Fewer micro batches than ranks leave its V unfilled.

    Args:
        micros: micro batches of one step and data rank.
        virtual: stages per rank under `interleaved`.
    """
    if schedule == "zero_bubble":
        return 1 - 6 * micros / max(6 * micros + ranks - 1, 2 * micros + 4 * ranks - 1)
    parts = virtual if schedule == "interleaved" else 1
    busy = parts * micros
    return 1 - busy / (parts * max(micros, ranks) + min(micros, ranks) - 1)
