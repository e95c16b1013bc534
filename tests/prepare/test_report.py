"""The prepare report: every part is there, hostile rows stay text, the keeper is shown beside the duplicate, all bounded."""

import json
import re

import pyarrow as pa
import pytest

from raylm.core.artifact import REPORT, Documents
from raylm.data.shards import read_parquet, write_parquet
from raylm.prepare.config import Prepare
from raylm.prepare.report import print_unread, write_report
from tests.prepare.corpora import table_of
from tests.stages import context, run_stage

EVIL = "<script>alert(1)</script>"


def _total(**more):
    return {
        "rows": 3,
        "rows_in": 1010,
        "bytes": 300,
        "shards": {"documents-000000-00000.parquet": 3},
        "dropped": {"duplicate": 1000, "pii": 7},
        "unread": {"there": 200},
        "by_source": {EVIL: {"kept": 3, "duplicate": 1000, "pii": 7}},
        "examples": {},
        "cleaned": {"pii": {"email": 12}},
        "seconds": {"read": 1.5, "gopher_quality": 0.5},
        "lengths": {"5": 1, "7": 2},
        "columns": [],
        "rejected": [],
        "sweeps": {"0-min_hash": {"dropped": 1000, "similarity": {"0.8": 3, "0.9": 40}, "largest": [{"size": 4, "text": EVIL}]}},
    } | more


def _page(root, total, table=None):
    ctx = context(root, "corpus")
    if table is not None:
        write_parquet(ctx.out, "documents-000000-00000.parquet", table)
    write_report(ctx.out, "corpus", total)
    return ctx, ctx.out.read(REPORT).decode()


def test_all_of_it_is_shown_and_stays_text(tmp_path):
    table = table_of([EVIL + " the words that stay", "b", "c"])
    table = table.append_column("fluency", pa.array([0.5, 0.25, None], pa.float32()))
    table = table.append_column("language", pa.array(["en", "en", EVIL]))
    table = table.append_column("spam", pa.array([True, False, None]))
    twin = {"where": f"{EVIL}:9", "id": "x", "text": EVIL + " the words that go", "because": table["id"][0].as_py()}
    lost = {"where": "elsewhere:3", "id": "y", "text": "gone", "because": "no such id"}
    _, made = _page(tmp_path, _total(examples={"duplicate": [twin, lost], "pii": [{"where": "a:1"}]}), table)
    assert "<script" not in made
    for heading in ("From rows to documents", "By source", "What cleaners changed", "Documents as they are left",
                    "Sweep 0-min_hash", "What was dropped, by example", "Time"):  # fmt: skip
        assert f"<h2>{heading}</h2>" in made
    assert re.findall("<mark>(.*?)</mark>", made) == ["go", "stay"]
    assert "because of no such id" in made and "a:1" in made
    assert "<h3>spam</h3>" in made and "fluency" in made and "66.7%" in made and "1,010" in made and "email" in made
    assert made.count("<rect") == 3 + 24


def test_a_page_of_many_sources_reasons_and_long_texts_is_small(tmp_path):
    sources = {f"s{at}": {"kept": 1, f"reason {at % 300}": at} for at in range(3000)}
    examples = {f"reason {at}": [{"where": "w" * 10**4, "id": "x", "text": "t" * 10**5}] * 9 for at in range(300)}
    dropped = {f"reason {at}": at for at in range(300)}
    _, made = _page(tmp_path, _total(by_source=sources, examples=examples, dropped=dropped, shards={}, lengths={}))
    assert "2,950 other sources" in made and "other reasons" in made and len(made) < 300_000
    lines = [
        re.findall(r">([^<]*)</td>", line) for line in made.splitlines() if "2,950 other sources" in line or "<td>s2999<" in line
    ]
    numbers = [[int(value.replace(",", "")) for value in line[1:3] + line[4:]] for line in lines]
    assert all(total == sum(rest) for total, *rest in numbers)


def test_two_runs_have_one_content(tmp_path):
    contents = set()
    for at in range(2):
        ctx, _ = _page(tmp_path / str(at), _total(seconds={"read": at}), table_of(["a", "b", "c"]))
        contents.add(ctx.commit(Documents, facts={}).content)
    assert len(contents) == 1


def test_columns_are_read_of_some_shards_only(tmp_path, monkeypatch):
    from raylm.prepare import report

    opened: list[str] = []
    real = report._opened
    monkeypatch.setattr(report, "_opened", lambda out, name: (opened.append(name), real(out, name))[1])
    ctx = context(tmp_path, "corpus")
    names = [f"documents-{at:06d}-00000.parquet" for at in range(100)]
    for name in names:
        write_parquet(ctx.out, name, table_of(["a"]).append_column("score", pa.array([1.0])))
    sampled = report._sampled(ctx.out, dict.fromkeys(names, 1))
    assert sampled is not None and len(opened) == sampled.num_rows <= 16


@pytest.mark.ray
def test_a_stage_that_selects_writes_its_report(tmp_path, workers):
    for name, word in (("target", "whale"), ("raw", "code")):
        rows = [{"text": f"the {'whale' if at % 4 == 1 else word} number {at}"} for at in range(40)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run_stage(tmp_path, "wiki", Prepare(source={"kind": "jsonl", "glob": f"{tmp_path}/target.jsonl"}), workers)
    table = {
        "source": {"kind": "jsonl", "glob": f"{tmp_path}/raw.jsonl", "split_bytes": 400},
        "select": [{"kind": "dsir", "target": "wiki", "share": 0.25}, {"kind": "sample", "num_documents": 8}],
    }
    made = run_stage(tmp_path, "sea", Prepare.model_validate(table), workers)
    assert made.facts["rows"] == 8 and made.facts["dropped"] == {"not_selected": 32}
    texts = [text for entry in made.shards("documents-") for text in read_parquet(made.folder, entry.path)["text"].to_pylist()]
    assert len(texts) == 8 and all("whale" in text for text in texts)
    shown = made.folder.read(REPORT).decode()
    assert "<h2>Sweep 0-dsir</h2>" in shown and "not_selected · 32" in shown


def test_more_than_a_tenth_that_could_not_be_read_is_reported(capsys):
    total = {"rows_in": 40, "unread": {"a": 3, "b": 1}, "dropped": {"short": 9, "unread_key: tools": 4}}
    print_unread("chats", total)
    assert capsys.readouterr().err == ""
    print_unread("chats", total | {"unread": {"a": 5}})
    said = capsys.readouterr().err
    assert "chats: 5 of 40 rows (12%) could not be read; dropped in all: short 9, unread_key: tools 4" in said
    assert "next: `keep_rejected = true`" in said
