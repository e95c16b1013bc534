"""The ledger: `ledger.parquet` records and checks which rows a run consumed.

ranks --add--> memory --gather, with a step checkpoint--> work/ledger/*.parquet --finish--> ledger.parquet
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from raylm.core.errors import TrainingError
from raylm.core.storage import Folder
from raylm.data.shards import read_parquet, write_parquet
from raylm.trainer.history import Segments

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from raylm.parallel.mesh import Grid

LEDGER = "ledger.parquet"
_ROW_GROUP = 1 << 20


class _Read(NamedTuple):
    """What one rank, or all of them, read for one step. Rows are numbered through all parts of a mixture."""

    step: int
    data_step: int
    trained: bool
    rows: np.ndarray


class Ledger:
    """Which rows each step consumed, collected from what each rank read.

    Args:
        work: folder of the run's step checkpoints.
        parts: rows of each artifact.
        grid: this rank's place; of ranks that read the same rows only one counts.
    """

    def __init__(self, work: Folder, parts: Sequence[int], grid: Grid) -> None:
        self._segments = Segments(work / "ledger", ".parquet")
        self._parts, self._rank = list(parts), grid.rank
        self._counts = not any(grid.at[name] for name in ("pipeline", "context", "tensor"))
        self.rewind(0, files=False)

    def add(self, step: int, data_step: int, rows: Sequence[int], trained: bool) -> None:
        """This rank read `rows` at position `data_step` of the data, for step `step`; `trained`: weights learned from them."""
        import numpy as np

        if self._counts:
            self._open.append(_Read(step, data_step, trained, np.asarray(rows, dtype=np.int64)))

    def rewind(self, step: int, files: bool = True) -> None:
        """Go back to what the checkpoint of `step` knew."""
        self._first = self._end = step
        self._open: list[_Read] = []
        self._cut: list[_Read] = []
        self._merged: list[_Read] = []
        if files and self._rank == 0:
            self._segments.rewind(step)

    def cut(self, step: int) -> Ledger:
        """What was read up to `step` goes with the next `gather`."""
        self._cut, self._open, self._end = self._open, [], step
        return self

    def gather(self, group: Any) -> None:
        """Bring every rank's part to rank 0; every rank must call."""
        import torch.distributed as dist

        parts: list[Any] | None = [self._cut]
        if group is not None:
            parts = [None] * dist.get_world_size(group) if self._rank == 0 else None
            dist.gather_object(self._cut, parts, group=group, group_dst=0)
        # rows of a save that failed are still here, and go with the next
        self._merged = _merged([*self._merged, *(read for part in parts or () for read in part)])

    def put(self) -> None:
        """Write what was gathered; for rank 0."""
        if self._end > self._first:  # else the last step's checkpoint wrote it
            write_parquet(self._segments.folder, self._segments.name(self._first, self._end), _table(self._merged))
        self._first, self._merged = self._end, []

    def finish(
        self,
        out: Folder,
        step: int,
        planned: Callable[[int], Sequence[int]],
        passed: Sequence[int] = (),
        in_order: bool = True,
    ) -> int:
        """Check the whole ledger and write it into the artifact; for rank 0. Returns the number of rows.

        Args:
            step: steps of the run; all of them have been put.
            planned: the rows that a position of the data was to give. That order goes through all rows once per epoch
                (`raylm.data.order`), so a ledger equal to it says that each row of each epoch was read once.
            passed: positions that were passed over on purpose.
            in_order: steps read one position after the other; else in any order, and who calls knows that none was left out.

        Raises:
            TrainingError: a row was read that was not planned, or planned and not read, or a position twice or never.
        """
        import pyarrow as pa
        import pyarrow.compute
        import pyarrow.parquet as pq

        compute: Any = pyarrow.compute
        names = self._segments.names(step)
        if not in_order:
            self._check_all(names, planned)
        count, at, held = 0, 0, []
        schema = self._named_parts(_table([])).schema
        # rows of a step are sorted, so that their differences are small
        packed = {"use_dictionary": False, "column_encoding": dict.fromkeys(("step", "data_step", "row"), "DELTA_BINARY_PACKED")}
        with out.writing(LEDGER) as path, pq.ParquetWriter(path, schema, compression="zstd", **packed) as file:
            for name in names:
                table = read_parquet(self._segments.folder, name)
                at = self._check(table, at, planned, set(passed)) if in_order else at
                held.append(self._named_parts(table))
                count += len(table)
                # segments are small where saves are frequent; row groups are not
                if sum(map(len, held)) >= _ROW_GROUP or name == names[-1]:
                    file.write_table(pa.concat_tables(held).combine_chunks())
                    held = []
                last = compute.max(table.column("step")).as_py()
            if names and last != step - 1:
                raise self._broken(step - 1, f"it ends with step {last}, at position {at} of the data")
        return count

    def _check_all(self, names: list[str], planned: Callable[[int], Sequence[int]]) -> None:
        """Look that all segments together hold no row that its position was not to give, and none twice."""
        read = Counter[tuple[int, int]]()
        for name in names:
            table = read_parquet(self._segments.folder, name)
            read.update(zip(table.column("data_step").to_pylist(), table.column("row").to_pylist(), strict=True))
        due = {position: set(planned(position)) for position in {position for position, _ in read}}
        wrong = sorted(pair for pair, times in read.items() if times > 1 or pair[1] not in due[pair[0]])
        if wrong:
            raise self._broken(wrong[0][0], f"of the pairs of position and row {wrong[:8]} were read too often")

    def _check(self, table: pa.Table, at: int, planned: Callable[[int], Sequence[int]], passed: set[int]) -> int:
        """Compare one segment with the order of the data from position `at` on; returns the position behind it."""
        import numpy as np

        step, data_step, row = (table.column(name).to_numpy() for name in ("step", "data_step", "row"))
        starts = np.flatnonzero(np.diff(data_step, prepend=-1))
        for first, end in zip(starts.tolist(), [*starts[1:].tolist(), len(row)], strict=True):
            while at in passed and at != data_step[first]:
                at += 1
            if data_step[first] != at:
                raise self._broken(step[first], f"it read position {data_step[first]} of the data, due was {at}")
            due = np.sort(np.asarray(planned(at), dtype=np.int64))
            if not np.array_equal(np.sort(row[first:end]), due):
                found, wanted = Counter(row[first:end].tolist()), Counter(due.tolist())
                more, less = sorted((found - wanted).elements())[:8], sorted((wanted - found).elements())[:8]
                raise self._broken(step[first], f"rows {more} were read too often, rows {less} were not read")
            at += 1
        return at

    def _named_parts(self, table: pa.Table) -> pa.Table:
        """Row numbers through all parts as (row, part)."""
        import numpy as np
        import pyarrow as pa

        ends, row = np.cumsum(self._parts), table.column("row").to_numpy()
        part = np.searchsorted(ends, row, side="right")
        row = row - (ends - np.array(self._parts))[part]
        table = table.set_column(table.column_names.index("row"), "row", pa.array(row, pa.int64()))
        return table.append_column("part", pa.array(part, pa.int16()))

    def _broken(self, step: int, what: str) -> TrainingError:
        return TrainingError(
            f"the ledger of step {step} is not what the data's order says: {what}",
            where=self._segments.folder.uri,
            next="the rows changed under the run, or two runs wrote here; begin it anew with --rebuild and its name",
        )


def _merged(reads: Sequence[_Read]) -> list[_Read]:
    """One entry for each position of the data, its rows in the order of their numbers: the same for any number of ranks."""
    import numpy as np

    by_place: dict[tuple[int, int, bool], list[_Read]] = {}
    for read in reads:
        by_place.setdefault((read.data_step, read.step, read.trained), []).append(read)
    return [
        _Read(step, data_step, trained, np.sort(np.concatenate([each.rows for each in found])))
        for (data_step, step, trained), found in sorted(by_place.items())
    ]


def _table(reads: Sequence[_Read]) -> pa.Table:
    import numpy as np
    import pyarrow as pa

    lengths = [len(read.rows) for read in reads]
    return pa.table(
        {
            "step": np.repeat(np.array([read.step for read in reads], dtype=np.int32), lengths),
            "data_step": np.repeat(np.array([read.data_step for read in reads], dtype=np.int32), lengths),
            "row": np.concatenate([read.rows for read in reads]) if reads else np.empty(0, np.int64),
            "trained": np.repeat(np.array([read.trained for read in reads], dtype=bool), lengths),
        }
    )
