"""Step checkpoints: complete or not counted, written off the step's path, on disks and in buckets."""

from __future__ import annotations

import os
import subprocess
import threading
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from raylm.core.errors import StorageError
from raylm.core.storage import Folder
from raylm.parallel.checkpoints.steps import (
    Keeping,
    clean,
    keep_for_good,
    measured_checkpoints,
    newest_checkpoint,
    whole_checkpoints,
)
from raylm.parallel.strategies.ddp import Ddp
from raylm.parallel.strategies.fsdp import Fsdp
from tests.buckets import local_bucket
from tests.parallel.loops import losses, make_loop
from tests.parallel.on_ranks import on_ranks


class Gate:
    """Lies beside a checkpoint and holds the saving thread until it is opened, or refuses with `error`."""

    def __init__(self, error: Exception | None = None) -> None:
        self.open, self.reached, self._error = threading.Event(), threading.Event(), error

    def gather(self, group) -> None:
        self.reached.set()
        assert self.open.wait(30.0)

    def put(self) -> None:
        if self._error:
            raise self._error


def weights_of(engine) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in engine.weights().items()}


def stepped(work, strategy=None):
    """A loop whose engine has taken one step."""
    loop, _ = make_loop(strategy or Ddp(), work)
    loop.step(0)
    return loop


@pytest.mark.parametrize("strategy", [Ddp(), Fsdp()], ids=lambda card: card.kind)
def test_what_is_saved_is_the_state_of_the_copy_whatever_the_steps_do_meanwhile(tmp_path, strategy):
    loop, gate = stepped(tmp_path, strategy), Gate()
    then = weights_of(loop.engine)
    loop.saver.copy()
    loop.saver.write({"said": 1}, [gate])
    assert gate.reached.wait(30.0) and loop.saver.poll() is None
    loop.step(1)
    loop.step(2)
    assert newest_checkpoint(Folder(tmp_path)) is None, "it counts before it is whole"
    gate.open.set()
    assert loop.saver.wait().step == 1
    fresh, _ = make_loop(strategy, tmp_path)
    facts = fresh.saver.load()
    assert (facts["step"], facts["said"], fresh.engine.done) == (1, 1, 1)
    found = weights_of(fresh.engine)
    assert all(tensor.equal(then[name]) for name, tensor in found.items())
    assert {float(state["step"]) for state in fresh.engine.optimizer.state.values()} == {1.0}
    assert not all(tensor.equal(then[name]) for name, tensor in weights_of(loop.engine).items())


def test_a_second_save_waits_for_the_first(tmp_path):
    loop, gate = stepped(tmp_path), Gate()
    loop.saver.copy()
    loop.saver.write({}, [gate])
    loop.step(1)
    threading.Timer(0.3, gate.open.set).start()
    stall, before = loop.saver.copy()
    assert before.step == 1 and stall >= 0.2
    loop.saver.write({})
    loop.saver.close()
    assert whole_checkpoints(Folder(tmp_path)) == [1, 2]


def test_a_failed_save_is_counted_removed_and_tried_again(tmp_path):
    loop = stepped(tmp_path)
    loop.saver.copy()
    gate = Gate(StorageError("the bucket is away", where="s3://x"))
    gate.open.set()
    loop.saver.write({}, [gate])
    saved = loop.saver.wait()
    assert "the bucket is away" in str(saved.failure) and saved.failure.where.endswith("step-00000001")
    assert not (tmp_path / "step-00000001").exists() and loop.saver.num_failed == 1
    loop.step(1)
    loop.saver.copy()
    loop.saver.write({})
    assert loop.saver.wait().failure is None
    assert whole_checkpoints(Folder(tmp_path)) == [2]


def test_too_many_failures_in_a_row_are_raised(tmp_path):
    loop = stepped(tmp_path)
    for attempt in range(3):
        gate = Gate(StorageError("the bucket is away"))
        gate.open.set()
        loop.saver.copy()
        loop.saver.write({}, [gate])
        if attempt < 2:
            assert loop.saver.wait().failure
    with pytest.raises(StorageError, match="a step checkpoint could not be written: the bucket is away"):
        loop.saver.wait()


def on_a_full_disk(rank: int, world: int, disk: str) -> str:
    """One save that fits and one that does not; ranks tell each other why through a process group, where causes are lost."""
    loop, _ = make_loop(Fsdp(), Path(disk))
    loop.step(0)
    loop.saver.copy()
    loop.saver.write({})
    assert loop.saver.wait().failure is None
    dist.barrier()
    if rank == 0:
        left = os.statvfs(disk)
        (Path(disk) / "other").write_bytes(b"x" * (left.f_bavail * left.f_bsize - 50_000))
    dist.barrier()
    loop.step(1)
    loop.saver.copy()
    loop.saver.write({})
    try:
        loop.saver.wait()
    except StorageError as said:
        return str(said)
    return "no word"


@pytest.mark.parametrize("world", [1, 2])
def test_a_full_disk_is_raised_at_once_and_the_checkpoint_before_stays(tmp_path, world):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)], capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system takes a root user, or a container that allows it")
    try:
        for said in on_ranks(world, on_a_full_disk, str(disk)):
            assert "a step checkpoint could not be written: the disk is full" in said and "free space" in said
        assert [path.name for path in sorted(disk.iterdir())] == ["other", "step-00000001"]
        assert stepped_from(disk) == 1
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def stepped_from(work) -> int:
    loop, _ = make_loop(Ddp(), work)
    loop.saver.load()
    return loop.engine.done


def test_what_was_cut_short_is_removed_and_what_is_newer_than_the_one_gone_back_to(tmp_path):
    loop = stepped(tmp_path)
    for _ in range(3):
        loop.saver.copy()
        loop.saver.write({})
        loop.step(loop.engine.done)
    loop.saver.wait()
    (tmp_path / "step-00000005").mkdir()
    (tmp_path / "step-00000005" / "__0_0.distcp").write_bytes(b"half")
    assert whole_checkpoints(Folder(tmp_path)) == [2, 3]
    assert loop.saver.load(2)["step"] == 2
    assert sorted(path.name for path in tmp_path.glob("step-*")) == ["step-00000002"]


def test_a_shard_that_is_cut_off_is_said_so(tmp_path):
    loop = stepped(tmp_path)
    loop.saver.copy()
    loop.saver.write({})
    loop.saver.wait()
    shard = next((tmp_path / "step-00000001").glob("*.distcp"))
    shard.write_bytes(shard.read_bytes()[:-2000])
    with pytest.raises(StorageError, match="cannot be read") as caught:
        make_loop(Ddp(), tmp_path)[0].saver.load()
    assert caught.value.where.endswith("step-00000001")


def test_last_best_and_every_are_kept():
    steps = {10: 3.0, 20: 1.0, 30: None, 40: 2.0, 50: 2.5, 60: float("nan")}
    assert Keeping(last=1).chosen(steps) == {60}
    assert Keeping(last=1, best=2).chosen(steps) == {20, 40, 60}
    assert Keeping(last=2, best=1, every=30).chosen(steps) == {20, 30, 50, 60}
    assert Keeping(best=3).lowest(steps) == [20, 40, 50]
    assert Keeping(best=1).lowest({10: 1.0, 20: 1.0}) == [10]


def test_the_best_and_every_so_many_outlive_the_work_folder_and_take_the_place_of_what_a_cut_run_left(tmp_path):
    work, kept = Folder(tmp_path / "work"), Folder(tmp_path / "steps")
    for step in (10, 20, 30, 40):
        (work / f"step-{step:08d}").write_json("done.json", {"step": step, "held_out_loss": 100 - step})
    (kept / "step-00000020").write("old", "from a run that was cut off here")
    assert keep_for_good(work, kept, Keeping(best=1, every=20)) == [20, 40]
    # a run that is killed before its commit goes on from 40 and not from 30
    assert whole_checkpoints(work) == [10, 20, 30, 40] and whole_checkpoints(kept) == [20, 40]
    work.remove()
    assert kept.files() == ["step-00000020/done.json", "step-00000040/done.json"]
    assert keep_for_good(Folder(tmp_path / "none"), kept, Keeping()) == []


def test_the_newest_is_whole(tmp_path):
    work = Folder(tmp_path)
    assert newest_checkpoint(work) is None and newest_checkpoint(Folder(tmp_path / "none")) is None
    for step in (10, 20, 30):
        (work / f"step-{step:08d}").write("shard", b"x")
        if step != 30:
            (work / f"step-{step:08d}").write_json("done.json", {"step": step, "held_out_loss": step / 10})
    assert newest_checkpoint(work).name == "step-00000020"
    assert measured_checkpoints(work) == {10: 1.0, 20: 2.0}
    clean(work, 10)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000010"]


def test_in_a_bucket():
    with local_bucket("models") as client:
        work = "s3://models/run/_work"
        whole, seen = make_loop(Fsdp(), work)
        whole.run()
        fresh, again = make_loop(Fsdp(), work)
        fresh.run()
        assert whole_checkpoints(Folder(work)) == [3]
        # another process writes; what was listed before must not hide it
        client.put_object(Bucket="models", Key="run/_work/step-00000009/done.json", Body=b"{}")
        assert whole_checkpoints(Folder(work)) == [3, 9]
        client.delete_object(Bucket="models", Key="run/_work/step-00000009/done.json")
        assert keep_for_good(Folder(work), Folder("s3://models/run/steps"), Keeping(every=3)) == [3]
        assert whole_checkpoints(Folder(work)) == [3] and whole_checkpoints(Folder("s3://models/run/steps")) == [3]
        assert losses(again) == losses(seen) and len(again) == 6
        after = weights_of(whole.engine)
        assert all(tensor.equal(after[name]) for name, tensor in weights_of(fresh.engine).items())


def failing_on_one_rank(rank: int, world: int, work: str) -> list[str]:
    """Rank 1 cannot write its shard: both ranks hear of it, both go on, and the next save is whole."""
    loop, _ = make_loop(Fsdp(), Path(work))
    said = []
    for step in range(2):
        loop.step(step)
        loop.saver.copy()
        state = loop.saver._copy
        if rank == 1 and step == 0:
            state["model"]["odd"] = lambda: None  # what cannot be pickled cannot be written
        loop.saver.write({})
        saved = loop.saver.wait()
        said.append(str(saved.failure.what) if saved.failure else "whole")
    loop.saver.close()
    return said


def test_what_fails_on_one_rank_fails_on_all_and_none_hangs(tmp_path):
    first, second = on_ranks(2, failing_on_one_rank, str(tmp_path))
    assert first == second and first[1] == "whole" and "could not be written" in first[0]
    assert whole_checkpoints(Folder(tmp_path)) == [2]


def test_a_group_that_was_superseded_ends_and_touches_nothing_more(tmp_path):
    """Ranks of a driver that is gone may live on for a moment beside those of the next run."""
    first, _ = make_loop(Ddp(), tmp_path, steps=2, save_every=1)
    first.saver.load()
    second, _ = make_loop(Ddp(), tmp_path, steps=2, save_every=1)
    second.saver.load()
    for loop in (first, second):
        loop.step(0)
    second.saver.copy()
    second.saver.write({})
    assert second.saver.wait().failure is None
    held = _tree(tmp_path)
    first.saver.copy()
    first.saver.write({})
    with pytest.raises(StorageError, match="another run of this stage has taken over"):
        first.saver.wait()
    # a save that fails is removed, but this folder is the other's
    assert _tree(tmp_path) == held and whole_checkpoints(Folder(tmp_path)) == [1]
    # nor does it finish: ledger and weights are the other's too
    first.step(1)
    with pytest.raises(StorageError, match="another run of this stage has taken over"):
        first._finish()
    assert _tree(tmp_path) == held


def _tree(at: Path) -> dict[str, bytes]:
    return {str(path.relative_to(at)): path.read_bytes() for path in sorted(at.rglob("*")) if path.is_file()}
