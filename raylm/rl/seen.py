"""What is seen of an rl run: every rollout, kept in files of the artifact by a thread of the driver, and read from there.

loop --add--> thread --> rollouts/*.parquet --> raylm show --rollouts, samples in report.html
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from raylm.core.errors import StorageError
from raylm.core.storage import Folder
from raylm.rl.config import RL
from raylm.rl.rollout_files import HELD_OUT, File, cut, files_in, folder_of, merge, table_of
from raylm.rl.types import Experience, Rollout

MOST_WAITING = 2
"""Iterations that wait to be written before the loop waits for them."""


class Seen:
    """The rollouts of one run. A resumed run writes the iterations that it repeats over those of before.

    Args:
        out: the artifact's folder.
    """

    def __init__(self, cfg: RL, out: Folder) -> None:
        self._keep, self._folder = cfg.keep_rollouts, folder_of(out)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="raylm-rollouts")
        self._waiting: deque[Future[None]] = deque()
        self._next: int | None = None
        self.lost = 0
        """Iterations whose rollouts could not be written."""

    def __enter__(self) -> Seen:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add(self, iteration: int, rollouts: list[Rollout], experience: Experience, stats: dict[str, Any]) -> None:
        """Keep what iteration `iteration` drew and learned; written while the loop goes on.

        Args:
            stats: its metrics; `version` is that of the weights which it updated.
        """
        if self._keep == 0:
            return
        again, self._next = iteration != self._next, iteration + 1
        version = int(stats.get("version", 0))
        self._write(iteration, "", lambda: table_of(iteration, rollouts, experience, version), again)

    def add_held_out(self, iteration: int, rollouts: list[Rollout], version: int) -> None:
        """Keep greedy answers to the held-out prompts, by the weights with which iteration `iteration` begins."""
        if self._keep != 0 and rollouts:
            self._write(iteration, HELD_OUT, lambda: table_of(iteration, rollouts, None, version))

    def close(self) -> None:
        """Wait until all is written."""
        while self._waiting:
            self._done(self._waiting.popleft())
        self._thread.shutdown()

    def finish(self) -> dict[str, int]:
        """Put the files of single iterations together once all are there; their rows, for the manifest."""
        self.close()
        found = {**merge(self._folder), **merge(self._folder, HELD_OUT)}
        return {f"{self._folder.name}/{name}": rows for name, rows in found.items()}

    def _write(self, iteration: int, prefix: str, table: Callable[[], Any], again: bool = False) -> None:
        while len(self._waiting) >= MOST_WAITING:
            self._done(self._waiting.popleft())

        def put() -> None:
            import pyarrow.parquet as pq

            if again:
                self._take_back(iteration)
            with self._folder.writing(File(prefix, iteration, iteration).name) as path:
                pq.write_table(table(), path, compression="zstd")
            if self._keep and not prefix:
                for file in files_in(self._folder):
                    if file.last <= iteration - self._keep:
                        self._folder.remove(file.name)

        self._waiting.append(self._thread.submit(put))

    def _take_back(self, iteration: int) -> None:
        """Remove what an attempt before left of iterations that are drawn again."""
        # greedy answers of an iteration are given before it draws
        for prefix, last in (("", iteration - 1), (HELD_OUT, iteration)):
            for file in files_in(self._folder, prefix):
                cut(self._folder, file, last)

    def _done(self, written: Future[None]) -> None:
        """A run does not end because what it shows cannot be written: that is told once, and counted."""
        try:
            written.result()
        except (StorageError, OSError) as cause:
            self.lost += 1
            if self.lost == 1:
                print(f"  the rollouts of an iteration are not kept: {cause}", file=sys.stderr)
