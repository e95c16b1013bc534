"""Files of rollouts in an artifact: one row a completion, with what it was scored and what was learned from it.

rollouts/00000003-00000003.parquet            iteration 3
rollouts/held_out-00000010-00000010.parquet   greedy answers to the held-out prompts, by the weights that iteration 10 began with
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from raylm.core.artifact import ROLLOUTS
from raylm.core.storage import Folder
from raylm.rl.types import Experience, Rollout, Sample

if TYPE_CHECKING:
    import pyarrow as pa

HELD_OUT = "held_out-"
"""What names of files with greedy answers begin with."""
LARGE = 64 << 20
"""Bytes up to which files of iterations are put together when the run is done."""


class File(NamedTuple):
    """The iterations `first` to `last`, of training or (`held_out-`) of greedy answers."""

    prefix: str
    first: int
    last: int

    @property
    def name(self) -> str:
        return f"{self.prefix}{self.first:08d}-{self.last:08d}.parquet"


def folder_of(artifact: Folder) -> Folder:
    """Where the rollouts of an artifact lie, finished or not."""
    return artifact / ROLLOUTS


def files_in(folder: Folder, prefix: str = "") -> list[File]:
    """Files of one prefix, in order of their iterations."""
    found = []
    for name in folder.files() if folder.exists() else ():
        first, _, last = name.removesuffix(".parquet").removeprefix(prefix).partition("-")
        if name.startswith(prefix) and first.isdigit() and last.isdigit():
            found.append(File(prefix, int(first), int(last)))
    return sorted(found)


def iterations_in(folder: Folder, prefix: str = "") -> list[int]:
    """Iterations whose rollouts are there."""
    return sorted({at for file in files_in(folder, prefix) for at in range(file.first, file.last + 1)})


def read(folder: Folder, iteration: int, prefix: str = "") -> list[dict[str, Any]]:
    """The rows of one iteration; [] where it has none."""
    import pyarrow.parquet as pq

    for file in files_in(folder, prefix):
        if file.first <= iteration <= file.last:
            table = pq.read_table(folder.local(file.name), filters=[("iteration", "=", iteration)])
            return table.to_pylist()
    return []


def table_of(iteration: int, rollouts: Sequence[Rollout], experience: Experience | None, version: int) -> pa.Table:
    """All rollouts of one iteration.

    Args:
        experience: what was learned from, with its advantages; None for answers that are only measured.
        version: of the weights that were updated: how far those that drew a completion lie behind is its staleness.
    """
    import pyarrow as pa

    learned = {(sample.row, sample.place): sample for sample in experience.samples} if experience else {}
    places, rows = Counter[int](), []
    for one in rollouts:
        rows.append(_row(iteration, one, learned.get((one.prompt.row, places[one.prompt.row])), version))
        places[one.prompt.row] += 1
    return pa.Table.from_pylist(rows, schema=_schema())


def cut(folder: Folder, file: File, last: int) -> None:
    """Take the iterations behind `last` out of a file, which may hold several where an attempt before had put them together."""
    import pyarrow.parquet as pq

    if file.last <= last:
        return
    if file.first <= last:
        kept = pq.read_table(folder.local(file.name), schema=_schema(), filters=[("iteration", "<=", last)])
        with folder.writing(File(file.prefix, file.first, last).name) as path:
            pq.write_table(kept, path, compression="zstd")
    folder.remove(file.name)


def merge(folder: Folder, prefix: str = "") -> dict[str, int]:
    """Put small files of following iterations together, in files of up to `LARGE` bytes; rows of each file that is left.

    What an attempt before had put together counts, and not the parts of it that it could not remove."""
    import pyarrow.parquet as pq

    found = files_in(folder, prefix)
    for file in found:
        if any(each != file and each.first <= file.first and file.last <= each.last for each in found):
            folder.remove(file.name)
    counts: dict[str, int] = {}
    for part in _parts(folder, files_in(folder, prefix)):
        whole = File(prefix, part[0].first, part[-1].last)
        if len(part) > 1:
            with folder.writing(whole.name) as path, pq.ParquetWriter(path, _schema(), compression="zstd") as writer:
                for file in part:
                    writer.write_table(pq.read_table(folder.local(file.name), schema=_schema()))
            for file in part:
                folder.remove(file.name)
        counts[whole.name] = pq.read_metadata(folder.local(whole.name)).num_rows
    return counts


def _parts(folder: Folder, files: list[File]) -> Iterator[list[File]]:
    """Neighbours that together are small enough."""
    part: list[File] = []
    size = 0
    for file in files:
        own = folder.size(file.name)
        if part and (size + own > LARGE or file.first != part[-1].last + 1):
            yield part
            part, size = [], 0
        part, size = [*part, file], size + own
    if part:
        yield part


def _row(iteration: int, one: Rollout, learned: Sample | None, version: int) -> dict[str, Any]:
    prompt, drawn = one.prompt, one.trajectory
    parts = one.parts if one.parts is not None else {"score": one.score} if one.score else {}
    advantages = [float(each) for each in learned.advantages] if learned else []
    counted = [advantage for advantage, on in zip(advantages, learned.mask_or_ones if learned else (), strict=True) if on]
    return {
        "iteration": iteration,
        "row": prompt.row,
        "source": prompt.source,
        "prompt": prompt.messages,
        "ground_truth": prompt.ground_truth,
        "completion": drawn.text,
        "turns": drawn.num_turns,
        "messages": drawn.messages or None,
        "tokens": drawn.tokens,
        "mask": None if drawn.mask is None else [int(on) for on in drawn.mask],
        "logprobs": drawn.logprobs,
        "versions": [span._asdict() for span in drawn.versions],
        "staleness": version - min((span.version for span in drawn.versions), default=version),
        "finish_reason": drawn.finish_reason,
        "score": one.score.value if one.score else None,
        "unscored": f"{one.unscored.kind}: {one.unscored.why}" if one.unscored else None,
        "rewards": [{"name": name, "value": score.value, "reason": score.reason} for name, score in parts.items()],
        "advantage": sum(counted) / len(counted) if counted else None,
        # equal for all tokens where an algorithm looks at whole completions
        "advantages": advantages if len(set(counted)) > 1 else None,
    }


def _schema() -> pa.Schema:
    import pyarrow as pa

    span = pa.struct([("version", pa.int32()), ("start", pa.int32()), ("end", pa.int32())])
    reward = pa.struct([("name", pa.string()), ("value", pa.float64()), ("reason", pa.string())])
    return pa.schema(
        {
            "iteration": pa.int32(),
            "row": pa.int64(),
            "source": pa.string(),
            "prompt": pa.string(),
            "ground_truth": pa.string(),
            "completion": pa.string(),
            "turns": pa.int32(),
            "messages": pa.string(),
            "tokens": pa.list_(pa.int32()),
            "mask": pa.list_(pa.int8()),
            "logprobs": pa.list_(pa.float32()),
            "versions": pa.list_(span),
            "staleness": pa.int32(),
            "finish_reason": pa.string(),
            "score": pa.float64(),
            "unscored": pa.string(),
            "rewards": pa.list_(reward),
            "advantage": pa.float32(),
            "advantages": pa.list_(pa.float32()),
        }
    )
