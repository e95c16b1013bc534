"""prepare end to end: counts, refusals, duplicates, and the same bytes after kill -9."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest

from raylm.core.errors import DataError
from raylm.core.storage import Folder
from raylm.data.records import COLUMNS
from raylm.data.shards import read_parquet
from raylm.prepare.config import Prepare
from raylm.prepare.score.statistics import Statistics
from tests.stages import payload, run_stage, tables_of

pytestmark = pytest.mark.ray


def _lines(at, *rows):
    at.parent.mkdir(parents=True, exist_ok=True)
    at.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _shard(artifact):
    return artifact.shards("documents-")[0].path


def _texts(artifact):
    tables = [read_parquet(artifact.folder, entry.path) for entry in artifact.shards("documents-")]
    return pa.concat_tables(tables)["text"].to_pylist()


def test_rows_are_filtered_counted_and_kept_with_their_reasons(tmp_path, workers):
    _lines(tmp_path / "in" / "a.jsonl", {"text": "first text"}, {"text": "x"}, {"body": "?"}, {"text": "LOUD TEXT"})
    _lines(tmp_path / "in" / "b.jsonl", {"text": "First  Text"}, {"text": "second text"})
    custom = {"kind": "custom", "path": "tests.prepare.shouty:Shouty", "options": {"word": "loud"}}
    cfg = Prepare(
        source={"kind": "jsonl", "glob": f"{tmp_path}/in/*.jsonl", "split_bytes": 1},
        dedup=[{"kind": "exact"}],
        steps=[{"kind": "length", "min_chars": 3}, custom],
        keep_rejected=True,
    )
    made = run_stage(tmp_path, "docs", cfg, workers)
    assert _texts(made) == ["first text", "second text"]
    assert made.facts["dropped"] == {"duplicate": 1, "loud": 1, "missing_column": 1, "too_short": 1}
    assert made.facts["rows"] == 2 and made.facts["bytes"] == 21 and made.facts["sources"] == 2 and made.metrics["rows_in"] == 6
    assert made.facts["dropped_examples"]["missing_column"] == [f"{tmp_path}/in/a.jsonl:37"]
    assert made.facts["dropped_by_source"] == {
        f"{tmp_path}/in/a.jsonl": {"kept": 1, "loud": 1, "missing_column": 1, "too_short": 1},
        f"{tmp_path}/in/b.jsonl": {"duplicate": 1, "kept": 1},
    }
    lost = [json.loads(line) for entry in made.shards("rejected-") for line in made.folder.read(entry.path).splitlines()]
    assert sorted(row["reason"] for row in lost) == ["duplicate", "loud", "missing_column", "too_short"]
    kept = [id for entry in made.shards("documents-") for id in read_parquet(made.folder, entry.path)["id"].to_pylist()]
    assert [row["because"] for row in lost if row["reason"] == "duplicate"] == kept[:1]
    assert sum(entry.rows or 0 for entry in made.manifest.files) == 2


def test_duplicates_are_the_same_for_any_sharding_and_number_of_workers(tmp_path, workers):
    for name in "abc":
        _lines(tmp_path / "in" / f"{name}.jsonl", *({"text": f"text {(at * ord(name)) % 17}"} for at in range(40)))
    source = {"kind": "jsonl", "glob": f"{tmp_path}/in/*.jsonl"}
    made = [
        run_stage(
            tmp_path,
            f"docs{at}",
            Prepare(source=source | {"split_bytes": split}, dedup=[{"kind": "exact"}], workers={"count": count}),
            workers,
        )
        for at, (split, count) in enumerate([(1 << 20, 1), (100, 1), (100, 4)])
    ]
    assert _texts(made[0]) == _texts(made[1]) and len(_texts(made[0])) == 17
    assert payload(made[1]) == payload(made[2])


def test_a_source_that_dedup_all_but_wipes_out_stops_the_stage_until_allowed(tmp_path, workers):
    _lines(tmp_path / "in" / "a.jsonl", *({"text": "the same everywhere"} for _ in range(150)))
    _lines(tmp_path / "in" / "b.jsonl", {"text": "another"})
    table = {"source": {"kind": "jsonl", "glob": f"{tmp_path}/in/*.jsonl"}, "dedup": [{"kind": "exact"}]}
    with pytest.raises(DataError, match=r"a.jsonl: dedup takes 149 of 150 documents \(99%\)"):
        run_stage(tmp_path, "docs", Prepare.model_validate(table), workers)
    told = Prepare.model_validate(table | {"max_source_loss": 1.0})
    assert told.fingerprint() == Prepare.model_validate(table).fingerprint()
    assert _texts(run_stage(tmp_path, "docs", told, workers)) == ["the same everywhere", "another"]


def test_a_filter_without_its_column_is_refused():
    with pytest.raises(ValueError, match="between reads 'num_words', which no step before it makes"):
        Prepare(source={"kind": "jsonl", "glob": "x"}, steps=[{"kind": "between", "column": "num_words", "min": 3}])


def test_a_threshold_is_tuned_on_the_columns_of_an_earlier_stage(tmp_path, workers):
    _lines(tmp_path / "in" / "a.jsonl", *({"text": "word " * n} for n in range(1, 30)))
    scored = Prepare(source={"kind": "jsonl", "glob": f"{tmp_path}/in/*.jsonl"}, steps=[{"kind": "statistics"}])
    run_stage(tmp_path, "scored", scored, workers)
    for least, left in ((5, 25), (20, 10)):
        cfg = Prepare(
            source={"kind": "documents", "documents": "scored"},
            steps=[{"kind": "between", "column": "num_words", "min": least}],
        )
        made = run_stage(tmp_path, f"least{least}", cfg, workers)
        assert (
            made.facts["columns"] == [*COLUMNS, *Statistics().columns()] == read_parquet(made.folder, _shard(made)).column_names
        )
        assert made.facts["rows"] == left and made.metrics["rows_in"] == 29


def test_columns_are_those_of_every_shard_and_two_steps_of_a_kind_both_say_what_they_saw(tmp_path, workers):
    _lines(tmp_path / "a.jsonl", {"text": "one two three"})
    _lines(tmp_path / "b.jsonl", {"text": "four five six"})
    exams = []
    for name, texts in (("x", ["seven eight nine ten"]), ("y", ["red green blue white", "north south east west"])):
        _lines(tmp_path / f"{name}.jsonl", *({"text": text} for text in texts))
        exams.append(
            {
                "kind": "decontaminate",
                "against": [{"kind": "jsonl", "glob": f"{tmp_path}/{name}.jsonl"}],
                "ngram": 4,
                "min_words": 4,
            }
        )
    source = {"kind": "jsonl", "glob": f"{tmp_path}/a.jsonl"}
    run_stage(tmp_path, "scored", Prepare(source=source, steps=[{"kind": "statistics"}]), workers)
    sources = [{"kind": "documents", "documents": "scored"}, {"kind": "jsonl", "glob": f"{tmp_path}/b.jsonl"}]
    for dedup in ([], [{"kind": "exact"}]):
        made = run_stage(tmp_path, f"docs{len(dedup)}", Prepare(source=sources, steps=exams, dedup=dedup), workers)
        assert made.facts["rows"] == 2 and made.facts["columns"] == list(COLUMNS)
        assert {name: said["questions"] for name, said in made.facts["steps"].items()} == {
            "0-decontaminate": 1,
            "1-decontaminate": 2,
        }


def test_nothing_left_says_why(tmp_path, workers):
    _lines(tmp_path / "in" / "a.jsonl", {"body": "x", "n": 1}, {"body": "y"})
    cfg = Prepare(source={"kind": "jsonl", "glob": f"{tmp_path}/in/*.jsonl"})
    with pytest.raises(DataError, match=r"no row is left of 2: missing_column 2; the rows have the columns body, n"):
        run_stage(tmp_path, "docs", cfg, workers)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.parquet").write_bytes(b"nothing")
    with pytest.raises(DataError, match="unreadable_file 1"):
        run_stage(tmp_path, "docs2", Prepare(source={"kind": "parquet", "glob": f"{tmp_path}/broken"}), workers)


def test_input_that_changed_between_attempts_is_read_again(tmp_path, workers):
    _lines(tmp_path / "in" / "a.jsonl", {"text": "one"})
    _lines(tmp_path / "in" / "b.jsonl", {"text": "two"})
    cfg = Prepare(source={"kind": "jsonl", "glob": f"{tmp_path}/in/*.jsonl", "split_bytes": 1})
    out = Folder(tmp_path / "docs")
    run_stage(tmp_path, "docs", cfg, workers)
    out.remove("manifest.json")
    (tmp_path / "in" / "b.jsonl").unlink()
    _lines(tmp_path / "in" / "a.jsonl", {"text": "three"})
    assert _texts(run_stage(tmp_path, "docs", cfg, workers)) == ["three"]


_DRIVER = """
import sys
from pathlib import Path
from raylm.core.workers import Workers
from raylm.prepare.config import Prepare
from tests.stages import run_stage
workers = Workers(wanted_cpus=2)
run_stage(Path(sys.argv[1]), "docs", Prepare.model_validate_json(sys.argv[2]), workers)
"""


@pytest.mark.slow
def test_kill_9_and_the_same_command_again_gives_the_same_bytes(tmp_path, workers):
    slow = {"kind": "custom", "path": "tests.prepare.slow:Slow", "options": {"seconds": 0.5}}
    cfg = Prepare(
        source={"kind": "python_library", "max_bytes": 3_000_000, "topics": False},
        dedup=[{"kind": "exact"}],
        steps=[slow],
        workers={"count": 1},
    )
    (tmp_path / "killed").mkdir()
    (tmp_path / "whole").mkdir()
    marks = tmp_path / "killed" / "docs" / "_work"
    home = Path(__file__).parents[2]
    driver = subprocess.Popen(
        [sys.executable, "-c", _DRIVER, str(tmp_path / "killed"), cfg.model_dump_json()],
        cwd=home,
        env=os.environ | {"PYTHONPATH": str(home)},
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 90
    while not list(marks.glob("read-*.json")) and time.monotonic() < deadline and driver.poll() is None:
        time.sleep(0.02)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    done = len(list(marks.glob("read-*.json")))
    assert 0 < done < len(cfg.source.units()), "killed too early or too late to prove anything"
    resumed = run_stage(tmp_path / "killed", "docs", cfg, workers)
    assert payload(resumed) == payload(run_stage(tmp_path / "whole", "docs", cfg, workers))


def test_the_job_of_the_readme_is_valid():
    tables = tables_of(Path(__file__).parents[2] / "raylm" / "prepare" / "README.md")
    assert [Prepare.model_validate(table).stage for table in tables.values()] == ["prepare"] * 2


def test_what_cannot_be_read_or_looked_at_is_no_success(tmp_path, workers):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jsonl").write_text('{"text": "fine"}\n' + "oops\n" * 9)
    _lines(tmp_path / "in" / "b.jsonl", *({"text": f"row {at}", "metadata": {"url": "http://a.org"}} for at in range(20)))
    source = {"kind": "jsonl", "glob": f"{tmp_path}/in/a.jsonl"}
    with pytest.raises(DataError, match=r"9 of 10 are rows that could not be read \(invalid_json 9\)"):
        run_stage(tmp_path, "bad", Prepare(source=source), workers)
    steps = [{"kind": "url_list", "domains": ["blocked.example"]}]
    cfg = Prepare(
        source={"kind": "jsonl", "glob": f"{tmp_path}/in"},
        steps=steps,
        max_source_loss=0.9,
        dedup=[{"kind": "exact", "by": "url"}],
    )
    made = run_stage(tmp_path, "good", cfg, workers)
    # the one row without a URL, to the list and to dedup
    assert made.metrics["url_list_without_url"] == made.metrics["exact_without_url"] == 1
    assert made.facts["dropped"] == {"duplicate_url": 19, "invalid_json": 9}


def test_decontamination_that_takes_most_of_a_source_stops(tmp_path, workers):
    question = "how many cups are on the red table of the hall where the old clock hangs"
    _lines(tmp_path / "in" / "a.jsonl", *({"text": f"{question} {at}"} for at in range(20)), {"text": "other"})
    _lines(tmp_path / "exam.jsonl", {"text": question})
    steps = [{"kind": "decontaminate", "against": [{"kind": "jsonl", "glob": f"{tmp_path}/exam.jsonl"}]}]
    cfg = Prepare(source={"kind": "jsonl", "glob": f"{tmp_path}/in"}, steps=steps)
    with pytest.raises(DataError, match="20 of 21 are documents that decontamination takes"):
        run_stage(tmp_path, "docs", cfg, workers)
    made = run_stage(tmp_path, "docs", cfg.model_copy(update={"max_source_loss": 1.0}), workers)
    assert _texts(made) == ["other"]


def test_a_mapped_column_that_no_row_has_stops_the_stage_with_the_names_that_there_are(tmp_path, workers):
    _lines(tmp_path / "in" / "a.jsonl", *({"question": f"q{at}", "data": {"answer": "x"}} for at in range(3)))
    _lines(tmp_path / "in" / "b.jsonl", {"text": "another"})
    sources = [{"kind": "jsonl", "glob": f"{tmp_path}/in/{name}.jsonl"} for name in "ba"]
    wrong, right = (sources[1] | {"columns": {"prompt": name, "completion": "data.answer"}} for name in ("qestion", "question"))
    with pytest.raises(DataError) as caught:
        run_stage(tmp_path, "docs", Prepare(source=[sources[0], wrong]), workers)
    assert caught.value.what == (
        "3 of 3 rows have no column 'qestion', and none is left. Did you mean 'question'? The rows have: data.answer, question"
    )
    assert caught.value.where == "source 1 (jsonl)"
    assert _texts(run_stage(tmp_path, "again", Prepare(source=[sources[0], right]), workers)) == [
        "another",
        *(f"q{at}\n\nx" for at in range(3)),
    ]
