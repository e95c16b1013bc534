"""Marked units: each done once, again only when the unit is another one, and errors arrive as they were raised."""

import json
import time
from types import SimpleNamespace

import pytest

from raylm.core import room
from raylm.core.config import WorkerSpec
from raylm.core.context import Context
from raylm.core.errors import StorageError
from raylm.core.storage import Folder
from raylm.data import marks
from raylm.data.marks import run_marked, sweep

pytestmark = pytest.mark.ray


def _context(tmp_path, workers):
    return Context(
        stage="s",
        out=Folder(tmp_path / "out").make(),
        stages={},
        workers=workers,
        config={},
        identity={},
        inputs=[],
        fingerprint="",
    )


def test_a_rerun_does_only_what_is_not_marked(tmp_path, workers):
    ctx, log = _context(tmp_path, workers), Folder(tmp_path / "log")

    def work(at, plain):
        log.write(f"{at}-{plain['n']}-{len(log.files()) if log.exists() else 0}", "")
        return {"square": plain["n"] ** 2}

    units = [{"n": at} for at in range(5)]
    assert [mark["square"] for mark in run_marked(ctx, "p", units, work, WorkerSpec(count=2))] == [0, 1, 4, 9, 16]
    ctx.work.remove("p-00003.json")
    units[1] = {"n": 10}
    assert [mark["square"] for mark in run_marked(ctx, "p", units, work, WorkerSpec())] == [0, 100, 4, 9, 16]
    assert len(log.files()) == 7


def test_a_unit_that_dies_before_its_mark_leaves_none_of_an_earlier_one(tmp_path):
    # its files lie there already: with the mark of before they would be taken for that unit's
    ctx = _context(tmp_path, SimpleNamespace(submitted=False))
    out = Folder(tmp_path / "files").make()

    def work(at, plain):
        out.write("file", plain["n"])
        if plain["n"] == "new":
            raise KeyboardInterrupt
        return {}

    one = marks._marked(ctx, "p", work)
    one({"at": 0, "unit": json.dumps({"n": "old"})})
    assert marks.read_mark(ctx.work, "p", 0, {"n": "old"}) is not None
    with pytest.raises(KeyboardInterrupt):
        one({"at": 0, "unit": json.dumps({"n": "new"})})
    assert out.read("file") == b"new" and marks.read_mark(ctx.work, "p", 0, {"n": "old"}) is None


def test_an_error_of_ours_comes_out_whole(tmp_path, workers):
    def work(at, plain):
        raise StorageError("the disk is full", where="there", next="free space")

    with pytest.raises(StorageError, match="there: the disk is full\n  next: free space"):
        run_marked(_context(tmp_path, workers), "p", [{}], work, WorkerSpec())


def test_half_written_files_are_swept(tmp_path):
    for name in (".writing-abc", "kept.parquet"):
        (tmp_path / name).write_text("x")
    (tmp_path / "_work").mkdir()
    (tmp_path / "_work" / ".writing-def").write_text("x")
    sweep(Folder(tmp_path))
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["_work", "kept.parquet"]


def test_a_unit_whose_mark_is_gone_is_not_left_out_in_silence(tmp_path, workers):
    ctx = _context(tmp_path, workers)
    # a unit that is another one after its way through JSON: its mark is never found
    with pytest.raises(StorageError, match=r"p-00000\.json: the mark of a finished unit is gone"):
        run_marked(ctx, "p", [{"n": {2: "a", 10: "b"}}], lambda at, plain: {}, WorkerSpec())


def test_a_stage_that_waits_for_cores_says_so_and_one_that_works_does_not(tmp_path, workers, capsys, monkeypatch):
    workers.ensure()
    monkeypatch.setattr(room, "SAY_S", 0.2)
    monkeypatch.setattr(marks, "LOOK_S", 0.05)
    monkeypatch.setattr(workers, "submitted", True)
    ctx = _context(tmp_path, workers)
    ctx.work.make().write("p-00003.begun", "")  # of an attempt before, which is no work of this one's
    with marks._words(ctx, "p", WorkerSpec(cpus=2)):
        time.sleep(1.0)
    assert "s waits for 2 CPUs (1 worker): " in capsys.readouterr().err
    with marks._words(ctx, "p", WorkerSpec(cpus=2)):
        ctx.work.write("p-00000.begun", "")
        time.sleep(1.0)
    assert not capsys.readouterr().err
    with marks._words(ctx, "p", WorkerSpec(cpus=2)):
        for at in range(2):
            ctx.work.write(f"p-0000{at}.begun", "")
            ctx.work.write(f"p-0000{at}.json", "{}")
        time.sleep(1.0)
    assert capsys.readouterr().err


def test_a_unit_on_a_shared_cluster_says_when_it_begins(tmp_path, workers, monkeypatch):
    workers.ensure()
    monkeypatch.setattr(workers, "submitted", True)
    ctx = _context(tmp_path, workers)
    marked = ctx.work

    def work(at, plain):
        return {"begun": marked.exists(f"p-{at:05d}.begun")}

    assert [mark["begun"] for mark in run_marked(ctx, "p", [{}, {}], work, WorkerSpec(count=2))] == [True, True]
