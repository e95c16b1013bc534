"""Asks the generators about all rows, keeps them busy over the edges of shards, and writes each shard once it is whole.

units --> rows --(window)--> pool of engines --> outcomes, by row --> journal --> shard, mark
                                  '-- one that is lost: its rows are asked again, elsewhere or of a fresh one
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from raylm.core.config import digest_of
from raylm.core.context import Context
from raylm.core.errors import DataError, RaylmError, StageError
from raylm.data.marks import Plain, read_mark
from raylm.generate.asked import Asked, Reader
from raylm.generate.config import Generate
from raylm.generate.journal import Journal
from raylm.generate.shard import write_shard
from raylm.inference.completions import Completion, Quarantined
from raylm.inference.pool import Pool

MARK = "shard"
ENDS = "ends_its_generator"
LOOK_S = 1.0
# rejected rows, and rows that end their generators, of which so many say something
_ALARM_ROWS, _ALARM_ENDS = 20, 3


@dataclass
class Open:
    """A unit whose rows are asked."""

    unit: Plain
    rows: list[Asked]
    journal: Journal
    outcomes: dict[int, Any] = field(default_factory=dict)

    @property
    def is_whole(self) -> bool:
        return len(self.outcomes) == len(self.rows)


class Draw:
    """One pass over all units.

    Args:
        room: tokens of a prompt that leave room for a completion.
        window: rows that are asked at the same time.
    """

    def __init__(self, cfg: Generate, ctx: Context, pool: Pool, reader: Reader, room: int, window: int) -> None:
        self._cfg, self._ctx, self._pool, self._reader = cfg, ctx, pool, reader
        self._room, self._window = room, window
        self._open: dict[int, Open] = {}
        self._under_way = 0
        self._counts = Counter[str]()
        """Of this attempt: rows done, completion tokens, rows that ended their generators."""
        self._asked, self._lost, self._reasons = 0, 0, Counter[str]()
        """Of all whole shards: completions that were asked for, those that are rejected, and why."""
        self._since = time.monotonic()

    @property
    def num_tokens(self) -> int:
        """Tokens of completions that were drawn in this attempt."""
        return self._counts["tokens"]

    def run(self, units: list[Plain]) -> list[Plain]:
        """The marks of all units, in order.

        Raises:
            DataError: too many rows are rejected.
            StageError: row after row ends its generator.
            PlacementError: no generator is left.
        """
        self._ctx.work.make()
        marks = [read_mark(self._ctx.work, MARK, at, unit) for at, unit in enumerate(units)]
        done = sum(unit["rows"] for unit, mark in zip(units, marks, strict=True) if mark)
        for mark in marks:
            self._count(mark)
        self._alarm_of_rejected()
        with self._ctx.progress(sum(unit["rows"] for unit in units), "rows") as bar:
            bar.to(done)
            rows = self._rows(units, marks)
            more = True
            while more or self._open:
                while more and self._under_way < self._window:
                    more = self._ask_next(rows)
                self._close_whole(marks)
                if self._under_way:
                    for key, answer in self._pool.answers(LOOK_S):
                        self._take(key, answer)
                    self._close_whole(marks)
                bar.to(done + self._counts["rows"], **self._shown())
        return [mark for mark in marks if mark is not None]

    def _rows(self, units: list[Plain], marks: list[Plain | None]) -> Iterator[tuple[int, int]]:
        """Numbers of unit and row of all that is to be done; a unit is read when its first row is wanted."""
        for at, (unit, mark) in enumerate(zip(units, marks, strict=True)):
            if mark is None:
                rows = list(self._reader.read(unit))
                self._open[at] = Open(unit, rows, Journal(self._ctx.work, at, unit))
                yield from ((at, place) for place in range(len(rows)))

    def _ask_next(self, rows: Iterator[tuple[int, int]]) -> bool:
        """Ask about the next row, or take what is known of it; False when there is none."""
        found = next(rows, None)
        if found is None:
            return False
        at, place = found
        unit = self._open[at]
        asked = unit.rows[place]
        if place in unit.journal.found:
            self._done(unit, place, unit.journal.found[place], known=True)
        elif reason := asked.rejected or (
            "too_long" if len(asked.tokens) > self._room else "" if asked.tokens else "empty_prompt"
        ):
            self._done(unit, place, reason)
        else:
            self._under_way += 1
            self._pool.submit(found, asked.tokens, self._cfg.sampling, seed_of(self._cfg.sampling.seed, asked.id))
        return True

    def _take(self, key: Any, answer: list[Completion] | Quarantined | RaylmError) -> None:
        at, place = key
        self._under_way -= 1
        if isinstance(answer, Quarantined):
            self._counts["ends"] += 1
            self._alarm_of_ends(answer)
            self._done(self._open[at], place, ENDS)
        elif isinstance(answer, (DataError, StageError)):
            # what the engine says of this request: counted by its first words
            self._done(self._open[at], place, f"refused: {answer.what[:80]}")
        elif isinstance(answer, RaylmError):
            raise answer
        else:
            self._done(self._open[at], place, [outcome_of(one) for one in answer])

    def _done(self, unit: Open, place: int, outcome: Any, known: bool = False) -> None:
        unit.outcomes[place] = outcome
        self._counts["rows"] += 1
        if not known:
            self._counts["tokens"] += 0 if isinstance(outcome, str) else sum(one["tokens"] for one in outcome)
            unit.journal.add(place, outcome)

    def _close_whole(self, marks: list[Plain | None]) -> None:
        """Write the shards of units of which all rows are done."""
        for at in [at for at, unit in self._open.items() if unit.is_whole]:
            unit = self._open.pop(at)
            outcomes = [unit.outcomes[place] for place in range(len(unit.rows))]
            mark = {"unit": digest_of(unit.unit), **write_shard(self._cfg, self._ctx.out, at, unit.rows, outcomes)}
            self._ctx.work.write_json(f"{MARK}-{at:05d}.json", mark)
            unit.journal.remove()
            marks[at] = mark
            self._count(mark)
            self._ctx.log(at, rows=mark["asked"], rejected=sum(mark["rejected"].values()), **mark["sums"], **self._shown())
            self._alarm_of_rejected()

    def _count(self, mark: Plain | None) -> None:
        if mark is not None:
            self._asked += mark["asked"] * self._cfg.sampling.n
            self._lost += mark["lost"]
            self._reasons.update(mark["rejected"])

    def _shown(self) -> dict[str, float]:
        return {"tokens_per_s": round(self._counts["tokens"] / max(time.monotonic() - self._since, 1e-9), 1)}

    def _alarm_of_rejected(self) -> None:
        """Over whole shards: what is rejected is known at once, what is answered only later."""
        if self._asked >= _ALARM_ROWS and self._lost > self._cfg.max_rejected * self._asked:
            listed = ", ".join(f"{reason} {count:,}" for reason, count in self._reasons.most_common(5))
            raise DataError(
                f"{self._lost:,} of {self._asked:,} completions are rejected ({listed}); max_rejected is "
                f"{self._cfg.max_rejected:.0%}",
                where=self._ctx.out.path("rejected-*.jsonl"),
                next="look at them; raise max_rejected if it is right, and run again: work is kept",
            )

    def _alarm_of_ends(self, last: Quarantined) -> None:
        if (ends := self._counts["ends"]) >= _ALARM_ENDS and ends > 0.1 * self._counts["rows"]:
            # it is the machine's fault, or the settings': the next attempt asks them again
            for unit in self._open.values():
                for place in [place for place, outcome in unit.outcomes.items() if outcome == ENDS]:
                    unit.journal.add(place, None)
            raise StageError(
                f"{ends} of {self._counts['rows']:,} rows ended their generator again and again: {last.why}",
                where=self._ctx.stage,
                next="were they out of memory? lower generator.max_num_seqs, sampling.max_tokens or max_prompt",
            )


def outcome_of(completion: Completion) -> Plain:
    """What is kept of a completion."""
    size = len(completion.tokens)
    return {
        "text": completion.text,
        "tokens": size,
        "finish_reason": completion.finish_reason,
        # a run that was resumed batches otherwise, which is seen in the last bits
        "mean_logprob": round(sum(completion.logprobs) / max(size, 1), 3),
    }


def seed_of(seed: int, id: str) -> int:
    """A row's seed: the same whatever else is asked, in whatever order, of however many engines."""
    return int.from_bytes(hashlib.blake2b(f"{seed}:{id}".encode(), digest_size=8).digest(), "big") >> 2
