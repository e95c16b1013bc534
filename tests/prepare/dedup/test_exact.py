"""The first of equal rows stays, however the rows are cut into shards and partitions."""

import numpy as np
import pyarrow as pa
import pytest

from raylm.data.records import read_row, schema
from raylm.prepare.dedup.exact import Exact, same_url
from tests.prepare.corpora import corpus_of, decided, left, table_of

pytestmark = pytest.mark.ray


def test_normalised_text_decides(tmp_path, workers):
    table = table_of(["Hello  World", "hello\nworld", "hello, world", "\uff28ello world"])
    found, facts = decided(corpus_of(tmp_path, table, workers=workers), Exact())
    assert [(row["row"], row["reason"], row["because"]) for row in found] == [
        (1, "duplicate", table["id"][0].as_py()),
        (3, "duplicate", table["id"][0].as_py()),
    ]
    assert facts == {"dropped": 2, "clusters": 1, "largest_cluster": 3}


def test_of_structured_rows_all_counts_that_is_trained_on(tmp_path, workers):
    pair = {"prompt": "q", "chosen": "a"}
    table = table_of(["q", "q", "q"], records={at: pair | {"rejected": answer} for at, answer in enumerate("bcb")})
    assert [row["row"] for row in decided(corpus_of(tmp_path, table, workers=workers), Exact())[0]] == [2]


def test_ids_and_metadata_of_structured_rows_do_not_count(tmp_path, workers):
    def dialogue(at, answer="a", **more):
        turns = [{"role": "user", "content": "q", "id": at}, {"role": "assistant", "content": answer, "timestamp": at}]
        return {"id": str(at), "uuid": at, "source": f"s{at}", "created_at": at, "messages": turns, **more}

    records = [dialogue(0), dialogue(1), dialogue(2, "b"), dialogue(3, system="other"), dialogue(4, tools=["t"]), dialogue(5)]
    records += [{"instruction": "i", "output": "o", "id": at, "input": text} for at, text in enumerate(("", "x", ""))]
    records += [{"prompt": "p", "completion": "c", "label": at < 2, "id": at} for at in range(3)]
    table = table_of(["same"] * len(records), records=dict(enumerate(records)))
    assert [row["row"] for row in decided(corpus_of(tmp_path, table, workers=workers), Exact())[0]] == [1, 5, 8, 10]


def test_other_keys_of_the_metadata(tmp_path, workers):
    rows = [
        {"text": f"t{at}", "metadata": meta} for at, meta in enumerate(({"url": "http://a.org"}, {"url": "a.org/"}, {"n": 1}))
    ]
    rows += [{"text": "t3", "doi": "10/A"}, {"text": "t4", "doi": "10/a"}, {"text": "t5", "doi": "10/A"}]
    table = pa.Table.from_pylist([read_row(row, None, "s", at, at + 1) for at, row in enumerate(rows)], schema=schema())
    for number, by in enumerate(("url", "metadata.url")):
        found, facts = decided(corpus_of(tmp_path / str(number), table, workers=workers), Exact(by=by))
        assert [(row["row"], row["reason"]) for row in found] == [(1, "duplicate_url")] and facts[f"without_{by}"] == 4
    found, facts = decided(corpus_of(tmp_path / "doi", table, workers=workers), Exact(by="doi"))
    assert [(row["row"], row["reason"]) for row in found] == [(5, "duplicate_doi")] and facts["without_doi"] == 3


def test_hosts_in_letters_and_in_punycode_are_one():
    same = {
        same_url(url)
        for url in ("http://b\u00fccher.example./x", "xn--bcher-kva.example/x", "//u:p@www.B\u00dcCHER.example:443/x")
    }
    assert len(same) == 1


def test_the_same_address_is_the_same_document(tmp_path, workers):
    urls = {0: "http://www.a.org/x/", 1: "https://a.org/x#top", 2: "https://a.org/y", 4: "https://A.org:443/x"}
    table = table_of([f"text {at}" for at in range(6)], urls=urls)
    found = decided(corpus_of(tmp_path, table, workers=workers), Exact(by="url"))[0]
    assert [(row["row"], row["reason"]) for row in found] == [(1, "duplicate_url"), (4, "duplicate_url")]
    assert same_url("a.org/X?q=1") == "a.org/X?q=1"
    # crawls are full of what no parser takes
    assert same_url("http://[broken/x") == "http://[broken/x"


def test_any_sharding_and_number_of_workers_decide_alike(tmp_path, workers):
    draw = np.random.default_rng(0)
    table = table_of([f"text {draw.integers(60)}" for _ in range(300)])
    seen: set[str] = set()
    wanted = [text for text in table["text"].to_pylist() if not (text in seen or seen.add(text))]
    made = []
    for at, (cuts, count) in enumerate([(1, 1), (2, 2), (7, 4)]):
        corpus = corpus_of(tmp_path / str(at), table, cuts, workers, count)
        made.append(decided(corpus, Exact())[0])
        assert left(corpus, Exact()) == wanted
    assert made[0] == made[1] == made[2]


def test_what_an_earlier_corpus_holds_is_dropped_and_the_earlier_one_is_kept(tmp_path, workers, monkeypatch):
    from raylm.core.artifact import Documents
    from raylm.data.shards import write_parquet
    from tests.stages import context

    ctx = context(tmp_path, "old")
    write_parquet(ctx.out, "documents-000000-00000.parquet", table_of(["known", "twice", "twice"]))
    ctx.commit(Documents, facts={}, rows={"documents-000000-00000.parquet": 3})
    corpus = corpus_of(tmp_path, table_of(["new", "known", "new"]), 2, workers)
    found, _ = decided(corpus, Exact(against=["old"]))
    assert [row["row"] for row in found] == [1, 2]

    # with a partition of 100 bytes: five rows of 54, the earlier ones among them
    monkeypatch.setattr("raylm.prepare.corpus._PART_BYTES", 100)
    assert Exact(against=["old"]).sweep(corpus_of(tmp_path, table_of(["new", "known"]), 1, workers)).parts == 3
