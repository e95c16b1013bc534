"""Resumed runs: bit for bit the same at equal size, to 1e-6 at any other."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raylm.core.storage import Folder
from raylm.data.mixture import Mixture
from raylm.data.schedule import Mixed
from raylm.data.shards import read_parquet
from raylm.model.adapters.lora import Lora
from raylm.model.adapters.qlora import Qlora
from raylm.parallel.checkpoints.steps import clean, whole_checkpoints
from raylm.parallel.strategies.ddp import Ddp
from raylm.parallel.strategies.fsdp import Fsdp
from raylm.train.batches import Batches
from raylm.trainer.ledger import LEDGER, Ledger
from tests.parallel.loops import fixed_rows, losses, make_loop
from tests.parallel.on_ranks import on_ranks

STEPS = 6
CASES: dict[str, dict[str, Any]] = {
    "ddp": {"strategy": Ddp()},
    "fsdp": {"strategy": Fsdp()},
    "packed": {"strategy": Fsdp(), "document_mask": True, "kind": "Tokens"},
    "mixture": {"strategy": Ddp(), "kind": "Tokens"},
    "dropout": {"strategy": Fsdp(), "adapter": Lora(rank=4, dropout=0.5)},
    "qlora": {"strategy": Fsdp(), "adapter": Qlora(rank=4)},
    "unseen": {"strategy": Ddp(), "lr": 0.1},
    "pairs": {"strategy": Ddp(), "kind": "Pairs", "objective": {"kind": "dpo"}},
}


def packed_rows() -> list[dict[str, Any]]:
    """17 rows of 16 tokens, each with two or three documents; the first may be the end of one that began in another row."""
    draw = np.random.default_rng(3)
    rows = []
    for index in range(17):
        cuts = np.sort(draw.choice(np.arange(2, 14), 2, replace=False)).tolist()
        rows.append({"tokens": draw.integers(3, 64, 16), "starts": cuts if index % 2 else [0, cuts[0]]})
    return rows


def run(rank: int, world: int, work: str, case: str, table: dict[str, Any]) -> dict[str, Any]:
    """Train, or go on, in the folder `work`; what came out, ledger included."""
    table = {"steps": STEPS, "save_every": 1, "keep": 99, **CASES[case], **table}
    loop, seen = make_loop(table.pop("strategy"), Path(work), **table)
    rows, parts = None, [len(fixed_rows())]
    if case == "packed":
        rows, parts = packed_rows(), [17]
    if case == "mixture":
        parts = [4, 19]
        mixture = Mixture.model_validate({"parts": [{"rows": "a/x", "weight": 2}, {"rows": "b/x", "weight": 3}]})
        plain = [{"tokens": row["tokens"]} for row in fixed_rows()]
        rows = Mixed([plain[:4], plain[4:]], mixture.schedule(parts, STEPS * 5))
    if case == "unseen":
        # random rows of another draw: what is learned by heart does not help there
        loop.held_out = Batches(packed_rows(), "Tokens", batch=5, micro=2, seed=0, pad_id=0, rank=0, world=1)
    if rows is not None:
        grid = loop.engine.grid
        loop.batches = loop.held_out = Batches(
            rows, "Tokens", batch=5, micro=2, seed=0, pad_id=0, rank=grid.data_rank, world=grid.data_world,
            document_mask=case == "packed",
        )  # fmt: skip
        loop.ledger = Ledger(Folder(work), parts, grid)
    metrics = loop.run()
    ledger = read_parquet(Folder(work) / "out", LEDGER).to_pylist() if rank == 0 else []
    return {"rows": seen, "losses": losses(seen), "metrics": metrics, "weights": loop.engine.weights(), "ledger": ledger}


def cut_back(work: Path, to: Path, step: int) -> str:
    """A copy of the run as it stood when its checkpoint of `step` was the last whole one; the next was being written."""
    shutil.copytree(work, to)
    shutil.rmtree(to / "out")
    clean(Folder(to), step)
    (to / f"step-{step + 1:08d}").mkdir()
    (to / f"step-{step + 1:08d}" / "__0_0.distcp").write_bytes(b"half of it")
    return str(to)


def assert_same_bits(found: dict[str, Any], whole: dict[str, Any]) -> None:
    assert found["losses"] == whole["losses"]
    assert [row["grad_norm"] for row in found["rows"]] == [row["grad_norm"] for row in whole["rows"]]
    assert found["metrics"] == whole["metrics"]
    assert found["ledger"] == whole["ledger"]
    assert found["weights"].keys() == whole["weights"].keys()
    assert all(tensor.equal(whole["weights"][name]) for name, tensor in found["weights"].items())


@pytest.mark.parametrize("case", [case for case in CASES if case != "unseen"])
def test_going_on_at_any_step_is_the_uninterrupted_run_bit_for_bit(tmp_path, case):
    whole = run(0, 1, str(tmp_path / "whole"), case, {})
    assert len(whole["ledger"]) == STEPS * 5 and [row["step"] for row in whole["rows"]] == list(range(STEPS))
    assert whole["losses"][0] != pytest.approx(whole["losses"][-1], abs=1e-4)
    for step in (1, 4) if case in ("ddp", "pairs") else (2, 5):
        again = run(0, 1, cut_back(tmp_path / "whole", tmp_path / str(step), step), case, {})
        assert_same_bits(again, whole)
        assert whole_checkpoints(Folder(tmp_path / str(step))) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("case", ["fsdp", "packed", pytest.param("qlora", marks=pytest.mark.long)])
def test_two_ranks_go_on_bit_for_bit_and_any_number_to_1e_6_with_the_same_ledger(tmp_path, case):
    """2 -> 2, and 2 -> 1 -> 4: steps 0 and 1 by two ranks, 2 and 3 by one, the rest by four."""
    alone = run(0, 1, str(tmp_path / "alone"), case, {})
    two = on_ranks(2, run, str(tmp_path / "two"), case, {})[0]
    assert_same_bits(on_ranks(2, run, cut_back(tmp_path / "two", tmp_path / "again", 3), case, {})[0], two)
    run(0, 1, cut_back(tmp_path / "two", tmp_path / "one", 2), case, {})
    four = on_ranks(4, run, cut_back(tmp_path / "one", tmp_path / "four", 4), case, {})[0]
    for found in (two, four):
        assert found["losses"] == pytest.approx(alone["losses"], abs=1e-6)
        assert found["metrics"] == pytest.approx(alone["metrics"], abs=1e-6)
        assert found["ledger"] == alone["ledger"]


def test_rows_say_what_a_checkpoint_cost_and_done_json_stays_small(tmp_path):
    found = run(0, 1, str(tmp_path), "ddp", {"save_every": 2, "steps": 40})
    saves = [row["step"] for row in found["rows"] if "checkpoint_stall_s" in row]
    assert saves == [1, 3, *range(5, 39, 2)]
    ends = [row for row in found["rows"] if "checkpoint_s" in row]
    assert len(ends) >= len(saves) - 1 and all(row["checkpoint_s"] > 0 for row in ends)
    sizes = {step: (tmp_path / f"step-{step:08d}" / "done.json").stat().st_size for step in (2, 38)}
    assert abs(sizes[38] - sizes[2]) < 50, sizes


def test_held_out_rows_are_measured_on_the_way_the_best_is_kept_and_exported(tmp_path):
    """Rows that are learned by heart: on others the last state is not the best."""
    table = {"evaluate_every": 2, "save_every": 4, "keep": 1, "keep_best": 2, "steps": 12}
    last = run(0, 1, str(tmp_path / "last"), "unseen", table)
    measured = {row["step"] + 1: row["held_out_loss"] for row in last["rows"] if "held_out_loss" in row}
    assert list(measured) == [2, 4, 6, 8, 10]
    best = sorted(measured, key=lambda step: measured[step])[:2]
    assert set(whole_checkpoints(Folder(tmp_path / "last"))) == {*best, max(*best, 8)}
    assert last["metrics"]["held_out_loss_after"] > measured[best[0]]
    chosen = run(0, 1, str(tmp_path / "best"), "unseen", table | {"export": "best"})
    assert chosen["losses"] == last["losses"] and chosen["ledger"] == last["ledger"]
    assert chosen["metrics"]["exported_step"] == best[0]
    assert chosen["metrics"]["held_out_loss_after"] == measured[best[0]]
    assert any(not tensor.equal(last["weights"][name]) for name, tensor in chosen["weights"].items())


def test_every_so_many_steps_are_kept(tmp_path):
    run(0, 1, str(tmp_path), "ddp", {"save_every": 4, "keep": 1, "keep_every": 3, "steps": 11})
    assert whole_checkpoints(Folder(tmp_path)) == [3, 6, 9]
