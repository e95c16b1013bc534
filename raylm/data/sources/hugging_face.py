"""The `hugging_face` source: a data set of Hugging Face's `datasets`, on disk or on the hub, one document per row."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from raylm.core.errors import ConfigError, DataError
from raylm.data.records import Rejected
from raylm.data.sources.columns import documents_of, scalars
from raylm.data.sources.row_source import RowSource
from raylm.data.sources.units import BATCH_ROWS, Span, Unit, grouped, rows_of, sliced

if TYPE_CHECKING:
    import pyarrow as pa


class HuggingFace(RowSource):
    """A folder that `save_to_disk` wrote, a folder of data files, or a data set's name on the hub."""

    kind: Literal["hugging_face"] = "hugging_face"
    path: str
    """Folder, or hub name such as `roneneldan/TinyStories`."""
    name: str | None = None
    """Which of the data set's configurations."""
    split: str = "train"
    """Which of its splits."""
    revision: str | None = None
    """Commit of the hub's repository; a run without it reads what is there that day."""
    max_row_bytes: int = Field(default=16 << 20, gt=0)
    """A row whose text (or record) is longer than this is dropped and counted as row_too_long."""
    split_rows: int = Field(default=50_000, gt=0)
    """Rows per work unit."""

    def units(self) -> list[Unit]:
        """Ranges of rows. Raises DataError when the data set cannot be loaded or has no rows."""
        rows = len(self._load())
        if not rows:
            raise DataError(f"split {self.split!r} has no rows", where=self.path)
        path = os.path.abspath(self.path) if os.path.isdir(self.path) else self.path
        return grouped(sliced(Span(path, f"{self.path}/{self.split}", 0, rows), self.split_rows), self.split_rows)

    def read(self, unit: Unit) -> Iterator[dict[str, Any] | Rejected]:
        """Documents of one unit; their range is a row number."""
        return rows_of(self.batches(unit))

    def batches(self, unit: Unit) -> Iterator[tuple[pa.Table, list[Rejected]]]:
        """The same as tables."""
        loaded = self.model_copy(update={"path": unit.spans[0].path})._load()
        rows = loaded.select_columns(
            scalars(loaded.data.schema, self.text_column, self.columns) or loaded.column_names
        ).with_format("arrow")
        for span in unit.spans:
            for at in range(span.start, span.end, BATCH_ROWS):
                for batch in rows[at : min(at + BATCH_ROWS, span.end)].to_batches():
                    numbers = range(at, at + len(batch))
                    yield documents_of(batch, self.text_column, span.source, numbers, self.max_row_bytes, self.columns)
                    at += len(batch)

    def _load(self) -> Any:
        import datasets
        from datasets.exceptions import DatasetGenerationError, DatasetsError

        datasets.disable_progress_bars()
        saved = any(os.path.exists(os.path.join(self.path, name)) for name in ("state.json", "dataset_dict.json"))
        try:
            if not saved:
                return datasets.load_dataset(self.path, self.name, split=self.split, revision=self.revision)
            found = datasets.load_from_disk(self.path)
        except (OSError, ValueError, DatasetsError, DatasetGenerationError) as cause:
            raise DataError(
                f"cannot load this data set: {cause}",
                where=self.path,
                next="check path, name and split; a hub name needs the network",
            ) from cause
        if not isinstance(found, datasets.DatasetDict):
            return found
        if self.split not in found:
            raise ConfigError(f"no split is called {self.split!r}", where=self.path, next=f"one of: {', '.join(map(str, found))}")
        return found[self.split]
