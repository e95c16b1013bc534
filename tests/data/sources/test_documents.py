"""Documents of earlier stages: rows as they are, the scores that all of them have."""

import pyarrow as pa
import pytest

from raylm.core.artifact import FileEntry
from raylm.core.config import references
from raylm.core.errors import DataError
from raylm.core.storage import Folder
from raylm.data.records import COLUMNS, document, schema
from raylm.data.shards import read_parquet, write_parquet
from raylm.data.sources.documents import Documents
from raylm.data.sources.units import batches_of, table_of, unit_of


class Made:
    """What the card needs of an artifact: where it lies and which shards it has."""

    def __init__(self, path, names, scores):
        self.folder = Folder(path)
        self.uri, self.entries, self.rows = self.folder.uri, [], []
        for name in names:
            rows = [document(f"{name}.txt", at, at + 1, f"{name} {at}", None, '{"url":"u"}') for at in range(1500)]
            table = table_of(rows)
            for score in scores:
                table = table.append_column(score, pa.array([at / 10 for at in range(1500)], pa.float32()))
            write_parquet(self.folder, name, table)
            self.entries.append(FileEntry(path=name, bytes=1, rows=1500, digest=""))
            self.rows += table.to_pylist()

    def shards(self, prefix):
        return [entry for entry in self.entries if entry.path.startswith(prefix)]


def test_rows_and_scores_come_back_as_they_were(tmp_path):
    made = Made(tmp_path / "a", ["documents-00000.parquet", "documents-00001.parquet", "rejected-0.parquet"], ["english"])
    units = [unit_of(unit.plain()) for unit in Documents(documents="a").units_of([made])]
    assert [len(unit.spans) for unit in units] == [2] and units[0].columns == ("english",)
    tables = [table for unit in units for table, lost in batches_of(Documents(documents="a"), unit)]
    assert pa.concat_tables(tables).to_pylist() == made.rows[:3000] and max(map(len, tables)) <= 1000
    assert tables[0].schema.names == [*COLUMNS, "english"] and tables[0].schema.field("text").type == pa.large_string()
    assert list(Documents(documents="a").read(units[0])) == made.rows[:3000]


def test_neighbouring_shards_are_read_together_up_to_a_size_and_in_order(tmp_path):
    made = Made(tmp_path / "a", [f"documents-000000-{at:05d}.parquet" for at in range(5)], [])
    made.entries = [
        entry.model_copy(update={"bytes": size << 20}) for entry, size in zip(made.entries, (10, 10, 12, 40, 1), strict=True)
    ]
    card = Documents(documents="a")
    units = card.units_of([made])
    assert [len(unit.spans) for unit in units] == [3, 1, 1]
    assert [row for unit in units for row in card.read(unit)] == made.rows
    # named twice, it is read twice
    assert sum(len(unit.spans) for unit in card.units_of([made, made])) == 10


def test_of_several_only_the_scores_that_all_have(tmp_path):
    one = Made(tmp_path / "a", ["documents-00000.parquet"], ["english", "quality"])
    two = Made(tmp_path / "b", ["documents-00000.parquet"], ["quality", "toxic"])
    card = Documents(documents=["a", "b"])
    units = card.units_of([one, two])
    assert [unit.columns for unit in units] == [("quality",)]
    assert len(pa.concat_tables([table for unit in units for table, _ in card.batches(unit)])) == 3000
    assert [found.value for found in references(card)] == ["a", "b"]


def test_documents_of_an_earlier_version_have_no_meta(tmp_path):
    folder = Folder(tmp_path)
    table = table_of([document("a", 0, 1, "x")]).drop_columns(["meta"])
    write_parquet(folder, "documents-00000.parquet", table)
    made = Made(tmp_path, [], [])
    made.entries = [FileEntry(path="documents-00000.parquet", bytes=1, rows=1, digest="")]
    card = Documents(documents="a")
    ((found, _),) = card.batches(card.units_of([made])[0])
    assert found.schema == schema() and found["meta"].to_pylist() == [None]


def test_a_score_of_two_types_is_refused_before_anything_is_read(tmp_path):
    one = Made(tmp_path / "a", ["documents-00000.parquet"], ["quality"])
    two = Made(tmp_path / "b", ["documents-00000.parquet"], [])
    table = read_parquet(two.folder, "documents-00000.parquet")
    write_parquet(two.folder, "documents-00000.parquet", table.append_column("quality", pa.array(["good"] * 1500)))
    with pytest.raises(DataError, match=r"b/documents-00000\.parquet: the column 'quality' holds string here and float"):
        Documents(documents=["a", "b"]).units_of([one, two])
