"""The ledger: holds exactly what ranks read, rewinds, is checked, and names documents."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from raylm.core.artifact import Checkpoint, InputEntry
from raylm.core.errors import DataError, TrainingError
from raylm.core.storage import Folder
from raylm.data.mixture import Mixture
from raylm.data.order import batch_indices
from raylm.data.schedule import Mixed
from raylm.data.shards import read_parquet, shard_name, write_arrow, write_parquet
from raylm.parallel.mesh import Mesh
from raylm.parallel.strategies.ddp import Ddp
from raylm.trainer.documents import documents_of_step, name_documents
from raylm.trainer.history import History
from raylm.trainer.ledger import LEDGER, Ledger
from tests.parallel.loops import make_loop
from tests.parallel.on_ranks import on_ranks
from tests.stages import context

BATCH, ROWS = 5, 13


def planned(step: int) -> list[int]:
    return batch_indices(ROWS, BATCH, step, seed=3)


def made(tmp_path, parts=(ROWS,)) -> Ledger:
    return Ledger(Folder(tmp_path / "work"), parts, Mesh().build(0, 1))


def fill(ledger: Ledger, first: int, end: int, plan=planned) -> None:
    for step in range(first, end):
        ledger.add(step, step, plan(step), trained=step != 2)


def save(ledger: Ledger, step: int) -> None:
    ledger.cut(step).gather(None)
    ledger.put()


def lines(tmp_path) -> list[dict]:
    return read_parquet(Folder(tmp_path), LEDGER).to_pylist()


def test_every_row_of_every_epoch_once(tmp_path):
    ledger = made(tmp_path)
    for end in (4, 5, 11):
        fill(ledger, ledger._first, end)
        save(ledger, end)
    assert ledger.finish(Folder(tmp_path), 11, planned) == 55
    found = lines(tmp_path)
    assert list(found[0]) == ["step", "data_step", "row", "trained", "part"]
    for step in range(11):
        mine = [line for line in found if line["step"] == step]
        assert [line["row"] for line in mine] == sorted(planned(step))
        assert {line["trained"] for line in mine} == {step != 2} and {line["part"] for line in mine} == {0}
    # 55 rows are four epochs of 13 and three rows more
    counts = Counter(line["row"] for line in found)
    assert sorted(counts.values()) == [4] * 10 + [5] * 3


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda step: [*planned(step)[1:], planned(step)[1]], "rows .* were read too often, rows .* were not read"),
        (lambda step: planned(step)[1:], "rows \\[\\] were read too often, rows"),
        (lambda step: [*planned(step), 1], "rows \\[1\\] were read too often, rows \\[\\]"),
    ],
)
def test_a_row_too_many_or_too_few_is_an_error_with_its_step(tmp_path, spoil, said):
    ledger = made(tmp_path)
    fill(ledger, 0, 3)
    ledger.add(3, 3, spoil(3), True)
    save(ledger, 4)
    with pytest.raises(TrainingError, match=f"ledger of step 3 .* {said}"):
        ledger.finish(Folder(tmp_path), 4, planned)
    assert not (tmp_path / LEDGER).exists()


def test_a_position_left_out_is_an_error_unless_it_was_passed_over(tmp_path):
    ledger = made(tmp_path)
    for step, data_step in ((0, 0), (1, 1), (1, 2), (2, 5)):
        ledger.add(step, data_step, planned(data_step), trained=data_step != 1)
    save(ledger, 3)
    with pytest.raises(TrainingError, match=r"step 2 .* read position 5 of the data, due was 3"):
        ledger.finish(Folder(tmp_path), 3, planned)
    assert ledger.finish(Folder(tmp_path), 3, planned, passed=[3, 4]) == 20
    assert {(line["step"], line["data_step"], line["trained"]) for line in lines(tmp_path)} == {
        (0, 0, True),
        (1, 1, False),
        (1, 2, True),
        (2, 5, True),
    }


def test_steps_that_read_ahead_may_share_positions_and_read_no_row_twice(tmp_path):
    """As asynchronous RL does: a step learns from prompts of several positions."""
    ledger = made(tmp_path)
    ledger.add(0, 0, planned(0)[:3], trained=True)
    ledger.add(0, 1, planned(1)[1:], trained=True)
    save(ledger, 1)
    ledger.add(1, 0, planned(0)[3:], trained=True)
    ledger.add(1, 1, planned(1)[:1], trained=False)
    save(ledger, 2)
    assert ledger.finish(Folder(tmp_path), 2, planned, in_order=False) == 2 * BATCH
    with pytest.raises(TrainingError):
        ledger.finish(Folder(tmp_path), 2, planned)
    ledger.add(2, 1, planned(1)[:1], trained=True)
    save(ledger, 3)
    with pytest.raises(TrainingError, match="read too often"):
        ledger.finish(Folder(tmp_path), 3, planned, in_order=False)


def test_steps_that_are_missing_at_the_end_are_an_error(tmp_path):
    ledger = made(tmp_path)
    fill(ledger, 0, 3)
    save(ledger, 4)
    with pytest.raises(TrainingError, match="ends with step 2, at position 3 of the data"):
        ledger.finish(Folder(tmp_path), 4, planned)
    assert not Folder(tmp_path).exists(LEDGER)


def test_going_back_cuts_off_what_came_after(tmp_path):
    ledger = made(tmp_path)
    for end in (2, 4, 6):
        fill(ledger, ledger._first, end, plan=lambda step: planned(step) if step < 4 else [0])
        save(ledger, end)
    fresh = made(tmp_path)
    fresh.rewind(4)
    assert [path.name for path in sorted((tmp_path / "work" / "ledger").iterdir())] == [
        "00000000-00000002.parquet",
        "00000002-00000004.parquet",
    ]
    fill(fresh, 4, 6)
    save(fresh, 6)
    assert fresh.finish(Folder(tmp_path), 6, planned) == 30


def test_rows_of_a_save_that_failed_go_with_the_next(tmp_path):
    ledger = made(tmp_path)
    fill(ledger, 0, 2)
    ledger.cut(2).gather(None)  # and no put: the disk refused
    fill(ledger, 2, 4)
    save(ledger, 4)
    assert [path.name for path in (tmp_path / "work" / "ledger").iterdir()] == ["00000000-00000004.parquet"]
    assert ledger.finish(Folder(tmp_path), 4, planned) == 20


def test_a_missing_segment_is_said_so(tmp_path):
    ledger = made(tmp_path)
    for end in (2, 4):
        fill(ledger, ledger._first, end)
        save(ledger, end)
    (tmp_path / "work" / "ledger" / "00000000-00000002.parquet").unlink()
    with pytest.raises(TrainingError, match="what the steps from 0 to 4 left behind is missing"):
        ledger.finish(Folder(tmp_path), 4, planned)


def test_rows_of_a_mixture_are_numbered_in_their_part(tmp_path):
    parts = [3, 4]
    table = Mixture.model_validate({"parts": [{"rows": "a/x", "weight": 1}, {"rows": "b/x", "weight": 3}]})
    mixed = Mixed([range(size) for size in parts], table.schedule(parts, 40))
    ledger = made(tmp_path, parts)
    fill(ledger, 0, 8, plan=lambda step: mixed.indices(step * BATCH, BATCH, 0))
    save(ledger, 8)
    ledger.finish(Folder(tmp_path), 8, lambda step: mixed.indices(step * BATCH, BATCH, 0))
    counts = Counter((line["part"], line["row"]) for line in lines(tmp_path))
    # 40 draws are 10 of the first part (3 epochs and one row) and 30 of the second (7 epochs and two rows)
    assert sorted(counts[0, row] for row in range(3)) == [3, 3, 4]
    assert sorted(counts[1, row] for row in range(4)) == [7, 7, 8, 8]


def of_ranks(rank: int, world: int, work: str, mesh: dict) -> None:
    """Each rank adds its own share; ranks that differ in `tensor` alone read the same rows, and count once."""
    import torch.distributed as dist

    grid = Mesh(**mesh).build(rank, world)
    ledger = Ledger(Folder(work), [ROWS], grid)
    for step in range(4):
        ledger.add(step, step, planned(step)[grid.data_rank :: grid.data_world], trained=True)
    group = dist.new_group(backend="gloo")
    ledger.cut(4).gather(group)
    if rank == 0:
        ledger.put()
        ledger.finish(Folder(work), 4, planned)


@pytest.mark.parametrize(("world", "mesh"), [(2, {}), (4, {"tensor": 2})])
def test_the_ledger_of_many_ranks_is_that_of_one(tmp_path, world, mesh):
    ledger = made(tmp_path)
    for step in range(4):
        ledger.add(step, step, planned(step), trained=True)
    save(ledger, 4)
    ledger.finish(Folder(tmp_path), 4, planned)
    on_ranks(world, of_ranks, str(tmp_path / "ranks"), mesh)
    assert lines(tmp_path / "ranks") == lines(tmp_path)


def test_the_loop_writes_what_its_batches_read(tmp_path):
    loop, _ = make_loop(Ddp(), tmp_path, micro=3)
    loop.run()
    found = lines(tmp_path / "out")
    assert len(found) == 30
    for step in range(6):
        assert [line["row"] for line in found if line["step"] == step] == sorted(loop.batches.indices(step))


def test_a_loader_that_reads_other_rows_is_found_out(tmp_path):
    loop, _ = make_loop(Ddp(), tmp_path)
    right = loop.batches._asked
    loop.batches._asked = lambda indices: right(indices if indices != loop.batches.indices(4) else [*indices[:-1], indices[0]])
    with pytest.raises(TrainingError, match="ledger of step 4"):
        loop.run()


def test_history_gives_back_what_was_cut_and_no_more(tmp_path):
    history = History(Folder(tmp_path))
    for step in range(5):
        history.add({"step": step, "loss": 1 / (step + 3)})
        if step in (1, 3):
            history.cut(step + 1).put()
    fresh = History(Folder(tmp_path))
    assert fresh.read(4) == [{"step": step, "loss": 1 / (step + 3)} for step in range(4)]
    fresh.rewind(2)
    assert fresh.read(2) == [{"step": step, "loss": 1 / (step + 3)} for step in range(2)] and fresh.read(0) == []
    with pytest.raises(TrainingError, match="from 2 to 4"):
        fresh.read(4)


def indexed_rows(root, name, documents):
    """An artifact with one row for each list of documents."""
    import pyarrow as pa

    from raylm.core.artifact import Tokens
    from raylm.data.lineage import index_name, index_schema

    ctx, shard = context(root, name), shard_name("train", 0, "arrow")
    write_arrow(ctx.out, shard, pa.table({"tokens": [[0, 0]] * len(documents)}))
    index = [
        {"id": id, "source": f"{name}.txt", "start": 0, "end": 9, "meta": None, "num_tokens": 1,
         "rows": [row], "positions": [at], "lengths": [1]}
        for row, ids in enumerate(documents)
        for at, id in enumerate(ids)
    ]  # fmt: skip
    write_parquet(ctx.out, index_name(shard), pa.Table.from_pylist(index, schema=index_schema()))
    return ctx.commit(Tokens, facts={}, rows={shard: len(documents)})


def test_rows_and_steps_name_their_documents(tmp_path):
    a, b = indexed_rows(tmp_path, "a", [["x", "y"], ["z"]]), indexed_rows(tmp_path, "b", [["u"], ["v", "w"]])
    assert name_documents([a.uri, b.uri], [3, 0]) == ["a.txt#x", "a.txt#y", "b.txt#v", "b.txt#w"]
    assert name_documents(["none"], [7]) == ["none row 7"]
    ctx = context(tmp_path, "base")
    ctx._inputs = [
        InputEntry(name=f"rows.parts.{at}.rows", uri=each.uri, fingerprint="", kind="Tokens") for at, each in enumerate((a, b))
    ]
    ledger = Ledger(ctx.work, [2, 2], Mesh().build(0, 1))
    ledger.add(0, 0, [0, 2], trained=True)
    ledger.add(1, 1, [1, 3], trained=False)
    save(ledger, 2)
    ledger.finish(ctx.out, 2, lambda at: [[0, 2], [1, 3]][at])
    base = ctx.commit(Checkpoint, facts={})
    assert [entry.path for entry in base.manifest.files] == [LEDGER]
    found = documents_of_step(base, 1)
    assert [(each["source"], each["id"], each["row"], each["rows"], each["trained"]) for each in found] == [
        ("a.txt", "z", 1, a.uri, False),
        ("b.txt", "v", 1, b.uri, False),
        ("b.txt", "w", 1, b.uri, False),
    ]
    with pytest.raises(DataError, match="no step 2"):
        documents_of_step(base, 2)
    with pytest.raises(DataError, match="no ledger"):
        documents_of_step(a, 0)


def test_a_large_ledger_is_small_on_file(tmp_path):
    """Rows of a step are sorted and stored as differences: under two bytes for each."""
    ledger = made(tmp_path, [100_000])
    for step in range(100):
        ledger.add(step, step, np.array(batch_indices(100_000, 1000, step, 0)), True)
    save(ledger, 100)
    assert ledger.finish(Folder(tmp_path), 100, lambda step: batch_indices(100_000, 1000, step, 0)) == 100_000
    assert (tmp_path / LEDGER).stat().st_size < 200_000
    assert Counter(line["row"] for line in lines(tmp_path)) == Counter(range(100_000))
