"""An engine in numbers, from what requests took on a real one: its audit log.

[Took, ...] -> step_s, seq_s (pace of answers against how many are made at once), prefill_tokens_s (first tokens against prompts)
"""

from __future__ import annotations

import bisect
import itertools
import statistics
from collections.abc import Sequence

from raylm.core.errors import DataError
from raylm.serve.scaling.replay.engine import EngineModel
from raylm.serve.scaling.replay.trace import Took, Trace

LEAST_TOKENS = 8
"""Of an answer whose pace counts."""
LEAST_REQUESTS = 20
ALONE = 1.1
"""Prompts at a time, on average, up to which one counts as read alone."""
ROUNDS = 6


def calibrate(trace: Trace, base: EngineModel, replicas: float = 1.0) -> EngineModel:
    """`base` with the paces that the requests of `trace` had; what no request tells (cache, limits, start) stays.

    Args:
        replicas: that shared the requests, on average.

    Raises:
        DataError: the trace says no seconds, or of too few requests.
    """
    timed = [each for each in trace.requests if 0 < each.first_s <= each.seconds]
    answers = [each for each in timed if each.arrival.answer >= LEAST_TOKENS]
    if len(answers) < LEAST_REQUESTS:
        raise DataError(
            f"{len(answers)} requests tell how long their tokens took, {LEAST_REQUESTS} are needed to know an engine by",
            where=trace.where,
            next="take an audit log of a busier hour, or say --set engine.step_s=... and --set engine.prefill_tokens_s=...",
        )
    writing = _Count([(each.arrival.at + each.first_s, each.arrival.at + each.seconds) for each in timed])
    reading = _Count([(each.arrival.at, each.arrival.at + each.first_s) for each in timed])
    quiet = [each for each in timed if reading.mean(each.arrival.at, each.arrival.at + each.first_s) / replicas <= ALONE]
    if len(quiet) < LEAST_REQUESTS:
        raise DataError(
            f"{len(quiet)} prompts were read alone, {LEAST_REQUESTS} are needed to know how fast",
            where=trace.where,
            next="take an audit log of a quieter hour, or say --set engine.prefill_tokens_s=...",
        )
    others = [writing.mean(each.arrival.at + each.first_s, each.arrival.at + each.seconds) / replicas - 1 for each in answers]
    beside = [writing.mean(each.arrival.at, each.arrival.at + each.first_s) / replicas - 1 for each in quiet]
    token_s, step_s, seq_s = 0.0, 0.0, 0.0
    read = _tokens_read(timed, answers, replicas)
    for _ in range(ROUNDS):
        # a step takes longer by the prompts that are read in it; a prompt is read slower by the answers beside it
        paces = [
            (each.seconds - each.first_s - tokens * token_s) / (each.arrival.answer - 1)
            for each, tokens in zip(answers, read, strict=True)
        ]
        step_s, seq_s = _line([max(0.0, each) for each in others], paces)
        step_s, seq_s = max(step_s, 1e-5), max(seq_s, 0.0)
        token_s = _token_s(quiet, [each.first_s - step_s - seq_s * max(0.0, m) for each, m in zip(quiet, beside, strict=True)])
    return base.model_copy(update={"step_s": step_s, "seq_s": seq_s, "prefill_tokens_s": 1 / token_s})


def _token_s(quiet: Sequence[Took], rests: Sequence[float]) -> float:
    """Seconds that a token of a prompt takes beyond the step that it is read in."""
    lengths = [float(each.arrival.prompt) for each in quiet]
    _, slope = _line(lengths, rests)
    if slope <= 0 or max(lengths) < 1.5 * min(lengths):
        # all about as long: what is left of the step is theirs
        slope = max(statistics.median(rests), 1e-6) / statistics.median(lengths)
    return slope


def _tokens_read(timed: Sequence[Took], answers: Sequence[Took], replicas: float) -> list[float]:
    """Tokens of others' prompts that were read while each answer was made; of several replicas, its share."""
    ends = sorted((each.arrival.at + each.first_s, each.arrival.prompt) for each in timed)
    times, sums = [at for at, _ in ends], [0, *itertools.accumulate(prompt for _, prompt in ends)]
    spans = [(each.arrival.at + each.first_s, each.arrival.at + each.seconds) for each in answers]
    return [(sums[bisect.bisect_right(times, end)] - sums[bisect.bisect_right(times, begin)]) / replicas for begin, end in spans]


class _Count:
    """How many of some intervals cover a moment, as a sum that any span can be read from."""

    def __init__(self, spans: Sequence[tuple[float, float]]) -> None:
        steps = sorted([(begin, 1) for begin, _ in spans] + [(end, -1) for _, end in spans])
        self._times, self._counts, self._sums = [0.0], [0], [0.0]
        for at, change in steps:
            self._sums.append(self._sums[-1] + self._counts[-1] * (at - self._times[-1]))
            self._times.append(at)
            self._counts.append(self._counts[-1] + change)

    def mean(self, begin: float, end: float) -> float:
        """Intervals at a time, between two moments."""
        return (self._until(end) - self._until(begin)) / (end - begin) if end > begin else 0.0

    def _until(self, at: float) -> float:
        place = bisect.bisect_right(self._times, at) - 1
        return self._sums[place] + self._counts[place] * (at - self._times[place])


def _line(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """Least squares: y = first + second * x. The outermost hundredth of y on either side does not count: pauses of a machine."""
    low, high = (sorted(y)[int(part * (len(y) - 1))] for part in (0.01, 0.99))
    kept = [(a, b) for a, b in zip(x, y, strict=True) if low <= b <= high]
    xs, ys = [a for a, _ in kept], [b for _, b in kept]
    mean_x, mean_y = statistics.fmean(xs), statistics.fmean(ys)
    spread = sum((a - mean_x) ** 2 for a in xs)
    slope = sum((a - mean_x) * (b - mean_y) for a, b in kept) / spread if spread > 1e-12 else 0.0
    return mean_y - slope * mean_x, slope


def mean_running(lines: Sequence[dict[str, float]]) -> float:
    """Replicas that ran on average, by the lines of a decision log; 1 where there are none."""
    found = [max(float(line["running"]), 1.0) for line in itertools.islice(lines, 10_000)]
    return statistics.fmean(found) if found else 1.0
