"""The prepare table: what no run could make sense of is refused before anything is read, and files are seen to change."""

import pytest
from pydantic import ValidationError

from raylm.prepare.config import Prepare

LINES = {"kind": "jsonl", "glob": "s3://bucket/x"}
EARLIER = {"kind": "documents", "documents": "scored"}
WORDS = {"kind": "word_list", "words": ["a"]}
TOP = {"kind": "top", "column": "score", "share": 0.5}


def _refused(said, **table):
    with pytest.raises(ValidationError, match=said):
        Prepare.model_validate({"source": LINES} | table)


def test_a_column_that_nothing_makes_is_refused():
    _refused("top reads 'score', which no step before it makes", select=[TOP])
    _refused("top reads 'language'", steps=[WORDS], select=[TOP | {"column": "words_count", "per": "language"}])
    _refused("semantic reads 'vector'", dedup=[{"kind": "semantic", "column": "vector"}])
    _refused("gopher_quality reads 'num_words'", steps=[{"kind": "gopher_quality"}, {"kind": "statistics"}])
    custom = {"kind": "custom", "path": "somebody:Card"}
    for table in ({"source": EARLIER}, {"steps": [custom]}, {"source": [LINES, EARLIER]}):
        assert Prepare.model_validate({"source": LINES, "select": [TOP]} | table)
    # what every document has may be asked for, and so may the metadata's keys
    steps = [{"kind": "between", "column": "source", "any_of": ["a"]}, {"kind": "url_list", "domains": ["a.org"]}]
    assert Prepare.model_validate({"source": LINES, "steps": [*steps, WORDS], "select": [TOP | {"column": "words_share"}]})


def test_no_score_is_written_over_another():
    _refused("word_list would write over the column 'words_count'", steps=[WORDS, WORDS | {"words": ["b"]}])
    _refused("classifier would write over the column 'text'", steps=[{"kind": "classifier", "model": "a/b", "column": "text"}])
    _refused("would write over", source=EARLIER, steps=[WORDS, WORDS | {"words": ["b"]}])
    # counted once more, after a cleaner
    again = {"kind": "statistics"}
    assert Prepare.model_validate({"source": LINES, "steps": [again, {"kind": "normalize"}, again]})


def test_nothing_to_read_is_refused():
    _refused("source is an empty list", source=[])


def test_files_on_a_disk_are_seen_to_change(tmp_path):
    for name in ("a.jsonl", "list.txt", "model.bin"):
        (tmp_path / name).write_text(name)
    steps = [
        {"kind": "url_list", "path": [f"{tmp_path}/list.txt", "s3://bucket/list"]},
        {"kind": "fast_text", "model": f"{tmp_path}/model.bin"},
    ]
    cfg = Prepare.model_validate({"source": {"kind": "jsonl", "glob": f"{tmp_path}/*.jsonl"}, "steps": steps})
    before = cfg.raw()
    assert set(before) == {f"{tmp_path}/*.jsonl", f"{tmp_path}/list.txt", f"{tmp_path}/model.bin"}
    (tmp_path / "model.bin").write_text("another")
    assert {name for name, said in cfg.raw().items() if before[name] != said} == {f"{tmp_path}/model.bin"}
