"""Marked units: each done once, again only when the unit is another one, and errors arrive as they were raised."""

import pytest

from raylm.core.config import WorkerSpec
from raylm.core.context import Context
from raylm.core.errors import StorageError
from raylm.core.storage import Folder
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
