"""One rank and two ranks on the same rows: the same losses, and a resume repeats them."""

from __future__ import annotations

import shutil

import pytest

from raylm.core.storage import Folder
from raylm.model.adapters.lora import Lora
from raylm.parallel.checkpoints.steps import load, newest_checkpoint
from raylm.parallel.optimizers.adafactor import Adafactor
from raylm.parallel.optimizers.adamw import AdamW
from raylm.parallel.optimizers.lion import Lion
from raylm.parallel.optimizers.muon import Muon
from raylm.parallel.strategies.ddp import Ddp
from raylm.parallel.strategies.fsdp import Fsdp
from tests.parallel.loops import losses, make_loop
from tests.parallel.two_ranks import PAIRS, PARTS
from tests.rl.samples import learn

STRATEGIES = {"ddp": Ddp(), "fsdp": Fsdp()}
EACH = pytest.mark.parametrize("name", list(STRATEGIES))


@pytest.mark.parametrize(
    ("case", "table"),
    [
        ("", {}),
        (" micro 3", {}),
        (" dpo", PAIRS),
        (" dpo laid", PAIRS),
        (" lora", {"adapter": Lora(rank=2)}),
        (" dora", {"adapter": Lora(rank=2, use_dora=True, use_rslora=True)}),
        *((f" {case}", table) for case, table in PARTS.items()),
    ],
)
@EACH
def test_two_ranks_do_what_one_does(two_ranks, tmp_path, name, case, table):
    """Batches of 5 leave one of two ranks a row short, and micro batches of 2 and 3 unequal rests."""
    loop, seen = make_loop(STRATEGIES[name], tmp_path, **table)
    metrics = loop.run()
    found = two_ranks[name + case]
    assert losses(found["rows"]) == pytest.approx(losses(seen), abs=1e-6)
    assert [row["grad_norm"] for row in found["rows"]] == pytest.approx([row["grad_norm"] for row in seen], rel=1e-4)
    assert found["metrics"] == pytest.approx(metrics, abs=1e-6)
    assert losses(seen)[0] != pytest.approx(losses(seen)[-1], abs=1e-3)


@pytest.mark.parametrize("micro", [1, 5])
def test_the_size_of_micro_batches_changes_nothing(tmp_path, micro):
    small, large = make_loop(Ddp(), tmp_path / "a", micro=micro), make_loop(Ddp(), tmp_path / "b", micro=3)
    for loop, _ in (small, large):
        loop.run()
    assert losses(small[1]) == pytest.approx(losses(large[1]), abs=1e-6)


@EACH
def test_a_resumed_run_equals_the_uninterrupted_bit_for_bit(two_ranks, name):
    whole, resumed = two_ranks[name], two_ranks[f"{name} resumed"]
    assert losses(resumed["rows"]) == losses(whole["rows"])
    assert [row["step"] for row in resumed["rows"]] == list(range(6))
    assert resumed["metrics"] == whole["metrics"]
    assert resumed["weights"].keys() == whole["weights"].keys()
    assert all(tensor.equal(whole["weights"][key]) for key, tensor in resumed["weights"].items())


@EACH
def test_a_checkpoint_without_done_json_is_ignored(two_ranks, name):
    assert two_ranks[f"{name} resumed"]["from"] == "step-00000003"


@EACH
def test_a_checkpoint_of_two_ranks_goes_on_at_one(two_ranks, tmp_path, name):
    for part in ("step-00000003", "history", "ledger"):
        shutil.copytree(two_ranks["folder"] / name / part, tmp_path / part)
    loop, seen = make_loop(STRATEGIES[name], tmp_path)
    loop.run()
    assert losses(seen) == pytest.approx(losses(two_ranks[name]["rows"]), abs=1e-6)


def test_the_state_of_adam_is_restored(tmp_path):
    loop, _ = make_loop(Fsdp(), tmp_path)
    loop.run()
    fresh, _ = make_loop(Fsdp(), tmp_path)
    load(fresh.engine, newest_checkpoint(Folder(tmp_path)))
    states = list(fresh.engine.optimizer.state.values())
    assert len(states) == len(list(fresh.engine.model.parameters()))
    assert {float(state["step"]) for state in states} == {3.0}
    assert all(float(state["exp_avg_sq"].sum()) > 0 for state in states)
    assert fresh.engine.done == 3


@pytest.mark.parametrize("strategy", [Ddp(), Fsdp()])
@pytest.mark.parametrize("optimizer", [AdamW(), AdamW(bits=8), Muon(), Lion(), Adafactor()])
def test_a_state_taken_before_the_first_update_counts_as_none(tmp_path, optimizer, strategy):
    """A first gradient that is not finite leaves an optimizer that never stepped, which is saved all the same."""
    optimizer = optimizer.model_copy(update={"lr": 1e-2, "warmup": 0})
    loops = [make_loop(strategy, tmp_path / name, optimizer=optimizer)[0] for name in ("asked", "not")]
    loops[0].engine.state()
    for loop in loops:
        for step in range(3):
            loop.step(step)
    asked, other = (loop.engine.weights() for loop in loops)
    assert all(tensor.equal(asked[name]) for name, tensor in other.items())


@EACH
def test_a_gradient_that_is_nan_on_one_rank_changes_no_rank(two_ranks, name):
    found = two_ranks[f"{name} nan"]
    assert found["stats"]["finite"] is False
    assert found["stats"]["grad_norm"] != found["stats"]["grad_norm"]
    assert found["done"] == 1
    assert all(tensor.equal(found["before"][key]) for key, tensor in found["after"].items())


@pytest.mark.parametrize("name", ["ddp lora", "fsdp lora"])
def test_a_step_checkpoint_of_lora_holds_adapters_alone(two_ranks, name):
    from torch.distributed.checkpoint import FileSystemReader

    folder = two_ranks["folder"] / name.replace(" ", "-") / "step-00000003"
    names = FileSystemReader(str(folder)).read_metadata().state_dict_metadata
    models = [key for key in names if key.startswith("model.")]
    assert len(models) == 2 * 7 * 2, "A and B of 7 matrices in 2 layers"
    assert all(".lora_" in key for key in names if not key.startswith("optimizer.param_groups"))


@EACH
def test_the_learner_of_rl_does_the_same_on_two_ranks(two_ranks, tmp_path, name):
    alone, found = learn(STRATEGIES[name], tmp_path, 0, 1), two_ranks[f"{name} trainer"]
    for left, right in zip(alone["stats"], found["stats"], strict=True):
        assert right == pytest.approx(left, rel=1e-4, abs=1e-6)
    for key, tensor in alone["weights"].items():
        assert float((tensor - found["weights"][key]).abs().max()) < 1e-5, key
