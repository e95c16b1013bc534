"""Data sets of `datasets`: saved to disk or as a folder of files, cut in ranges of rows."""

import datasets
import pytest

from raylm.core.errors import ConfigError, DataError
from raylm.data.sources.hugging_face import HuggingFace


def _texts(card):
    return [row["text"] for unit in card.units() for row in card.read(unit)]


def test_a_saved_data_set_is_read_in_ranges(tmp_path):
    rows = datasets.Dataset.from_dict({"text": [f"row {at}" for at in range(7)]})
    rows.save_to_disk(tmp_path / "one")
    card = HuggingFace(path=str(tmp_path / "one"), split_rows=3)
    assert len(card.units()) == 3 and _texts(card) == rows["text"][:]
    datasets.DatasetDict({"test": rows}).save_to_disk(tmp_path / "many")
    assert len(_texts(HuggingFace(path=str(tmp_path / "many"), split="test"))) == 7
    with pytest.raises(ConfigError, match="no split is called 'train'"):
        HuggingFace(path=str(tmp_path / "many")).units()


def test_a_folder_of_files_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n')
    assert _texts(HuggingFace(path=str(tmp_path / "data"))) == ["a", "b"]


def test_what_is_not_there_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="cannot load this data set"):
        HuggingFace(path=str(tmp_path / "empty")).units()
