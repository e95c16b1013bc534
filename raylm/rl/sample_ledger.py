"""The ledger of samples: of every completion that was drawn, which step learned from it, or why none did.

driver --add--> memory --put, before a step checkpoint--> work/samples/*.parquet --finish--> samples.parquet
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from raylm.core.errors import TrainingError
from raylm.core.storage import Folder
from raylm.data.shards import read_parquet, write_parquet
from raylm.rl.order import Ask
from raylm.rl.rollouts import Group
from raylm.trainer.history import Segments

SAMPLES = "samples.parquet"
TRAINED, NOT_FINITE, TRUNCATED, NO_SIGNAL, PASSED_OVER = "trained", "not_finite", "truncated", "no_signal", "passed_over"
REJECTED = "rejected"


class Taken(NamedTuple):
    """One completion of one prompt, and what became of it."""

    iteration: int
    position: int
    """Of its prompt in the order of prompts."""
    row: int
    """Of its prompt."""
    sample: int
    """Its place among the completions of the prompt."""
    outcome: str
    """"trained", or why not: a kind of `Unscored`, "no_signal", "rejected" (by the algorithm, which weighs it with nothing),
    "truncated", "not_finite", "passed_over"."""
    lowest: int
    """Version of the weights that drew its first token; -1 where the generator does not say."""
    highest: int
    """And its last one."""
    version: int
    """Of the weights that learned from it, before they did."""
    step: int
    """Optimizer steps of the run after it was learned from."""
    tokens: int
    """After the prompt."""


class SampleLedger:
    """What became of all completions of a run, kept by the driver; what a step checkpoint does not know is forgotten with it.

    Args:
        work: folder of the run's step checkpoints.
        out: the artifact's.
    """

    def __init__(self, work: Folder, out: Folder) -> None:
        self._segments, self._out = Segments(work / "samples", ".parquet"), out
        self._first = 0
        self._open: list[Taken] = []

    def add(self, iteration: int, groups: Iterable[Group], outcomes: dict[tuple[int, int], str], version: int, step: int) -> None:
        """One iteration's groups.

        Args:
            outcomes: by number of the group and place in it, where it is more than to have no score, or no signal.
        """
        for group in groups:
            for place, rollout in enumerate(group.rollouts):
                spans, otherwise = rollout.trajectory.versions, rollout.unscored.kind if rollout.unscored else NO_SIGNAL
                outcome = outcomes.get((group.number, place), otherwise)
                lowest = min((span.version for span in spans), default=-1)
                highest = max((span.version for span in spans), default=-1)
                at = (iteration, group.ask.position, group.prompt.row, place)
                self._open.append(Taken(*at, outcome, lowest, highest, version, step, len(rollout.trajectory.tokens)))

    def put(self, iteration: int) -> None:
        """Write what is known of the iterations up to `iteration`, whose step checkpoint comes next."""
        if iteration > self._first:
            write_parquet(self._segments.folder, self._segments.name(self._first, iteration), _table(self._open))
            self._first, self._open = iteration, []

    def rewind(self, iteration: int) -> None:
        """Go back to what the step checkpoint of `iteration` knew."""
        self._segments.rewind(iteration)
        self._first, self._open = iteration, []

    def finish(self, iterations: int, asked: set[Ask]) -> int:
        """Check the whole ledger and write it into the artifact; the number of samples that were learned from.

        Args:
            asked: all prompts that the run was to ask; those that were passed over may be among them.

        Raises:
            TrainingError: a prompt is missing, or in it twice, or was not to be asked.
        """
        import numpy as np
        import pyarrow as pa

        self.put(iterations)
        table = pa.concat_tables([read_parquet(self._segments.folder, name) for name in self._segments.names(iterations)])
        outcome = table.column("outcome").to_numpy()
        # a column each: a long run has millions of samples
        keys = np.stack([table.column(name).to_numpy().astype(np.int64) for name in ("position", "row", "sample")], 1)
        passed = {Ask(*pair) for pair in np.unique(keys[outcome == PASSED_OVER][:, :2], axis=0).tolist()}
        keys, times = np.unique(keys[outcome != PASSED_OVER], axis=0, return_counts=True)
        twice = keys[times > 1].tolist()
        known = {Ask(*pair) for pair in np.unique(keys[:, :2], axis=0).tolist()}
        lost, more = sorted(asked - known - passed), sorted(known - asked)
        if twice or lost or more:
            raise TrainingError(
                f"the ledger of samples is not what was asked: {len(twice)} samples are in it twice (first {twice[:2]}), "
                f"{len(lost)} prompts are missing (first {lost[:2]}), {len(more)} were not to be asked (first {more[:2]})",
                where=self._segments.folder.uri,
                next="two runs wrote here, or the prompts changed under the run; begin it anew with --rebuild and its name",
            )
        write_parquet(self._out, SAMPLES, table)
        return int((outcome == TRAINED).sum())


def _table(taken: list[Taken]) -> Any:
    import pyarrow as pa

    types = {"row": pa.int64(), "step": pa.int64(), "outcome": pa.string(), "sample": pa.int16()}
    names = list(Taken._fields)
    columns = {name: pa.array([one[at] for one in taken], types.get(name, pa.int32())) for at, name in enumerate(names)}
    return pa.table(columns)
