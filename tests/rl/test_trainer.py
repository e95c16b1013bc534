"""The trainer's updates on hand-made samples, without Ray: numbers by hand, micro batches, iterations without samples."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch

from raylm.core.errors import TrainingError
from raylm.core.storage import Folder
from raylm.data.shards import read_parquet
from raylm.parallel.group.heartbeat import NoHeartbeat
from raylm.parallel.group.ranks import Ranks
from raylm.parallel.strategies.fsdp import Fsdp
from raylm.rl import trainer
from raylm.rl.algorithms.grpo import Grpo
from raylm.trainer.history import History
from raylm.trainer.ledger import LEDGER
from tests.model.tiny import tiny_model, tiny_tokenizer
from tests.rl.samples import config, experience, learn, samples, setup_of


def test_the_first_update_by_hand(tmp_path):
    """The samples are the model's own: every ratio is 1, nothing is clipped, the loss is the mean advantage per token."""
    found = learn(Fsdp(), tmp_path, 0, 1)["stats"]
    made = samples(tiny_model(vocab=64, hidden=32, layers=1))
    tokens = sum(len(sample.logprobs) for sample in made)
    assert found[0]["loss"] == pytest.approx(-sum(sum(s.advantages) for s in made) / tokens, abs=1e-5)
    assert found[0]["nll"] == pytest.approx(-sum(sum(s.logprobs) for s in made) / tokens, abs=1e-5)
    assert abs(found[0]["mismatch_kl"]) < 1e-6
    assert found[0]["clip_ratio"] == 0.0
    assert found[2]["mismatch_kl"] > 1e-6
    assert found[2]["loss"] < found[0]["loss"]


def test_the_size_of_micro_batches_changes_nothing(tmp_path):
    small, large = learn(Fsdp(), tmp_path / "a", 0, 1, micro_batch=1), learn(Fsdp(), tmp_path / "b", 0, 1, micro_batch=5)
    for left, right in zip(small["stats"], large["stats"], strict=True):
        assert right == pytest.approx(left, rel=1e-4, abs=1e-6)


def test_a_group_without_this_runs_trainer_says_so(tmp_path):
    found = learn(Fsdp(), tmp_path, 0, 1)
    assert found["lost"] == 2


def test_an_iteration_without_samples_counts_and_changes_no_weight(tmp_path):
    found = learn(Fsdp(), tmp_path, 0, 1)
    assert found["skipped"] == {"finite": True}
    assert found["done"] == 4, "the learning rate follows the iteration"
    assert found["steps"] == 3, "an iteration is no optimizer step"


def test_the_schedule_comes_to_its_floor_where_iterations_have_no_samples(tmp_path):
    optimizer = {"kind": "adamw", "lr": 1e-3, "schedule": "cosine", "warmup": 0.0, "floor": 0.1}
    ranks, setup, given = built(tmp_path, config(optimizer=optimizer))
    rows = [trainer.update(ranks, setup, at, experience([] if at == 1 else given, at)) for at in range(3)]
    assert rows[1] == {"finite": True}
    assert [rows[at]["lr"] for at in (0, 2)] == pytest.approx([1e-3, 1e-4])
    assert [rows[at]["optimizer_steps"] for at in (0, 2)] == [1, 2]


def test_fewer_skips_allowed_at_an_iteration_without_samples(tmp_path):
    """The run was begun with more: what ends it is the next update."""
    ranks, setup, given = built(tmp_path, config(max_skipped=0))
    ranks.held[trainer.HELD].facts["skipped"] = 1
    assert trainer.update(ranks, setup, 0, experience([])) == {"finite": True}
    with pytest.raises(TrainingError, match="step 1: gradient norm"):
        trainer.update(ranks, setup, 1, experience(given, 1))


def test_a_gradient_that_is_not_finite_is_said(tmp_path):
    found = learn(Fsdp(), tmp_path, 0, 1, advantage=float("nan"))
    assert [stats["finite"] for stats in found["stats"]] == [False] * 3
    plain = tiny_model(vocab=64, hidden=32, layers=1).state_dict()
    assert all(torch.equal(tensor, plain[name]) for name, tensor in found["weights"].items())


def test_the_moving_average_is_what_is_exported(tmp_path):
    from safetensors.torch import load_file

    model = tiny_model(vocab=64, hidden=32, layers=1)
    model.save_pretrained(tmp_path / "model")
    tiny_tokenizer(64).save_pretrained(tmp_path / "model")
    cfg, ranks = config(strategy=Fsdp(), ema=0.5, iterations=1), Ranks(0, 1, torch.device("cpu"), None, NoHeartbeat())
    setup = setup_of(tmp_path)
    trainer.build(ranks, cfg, setup)
    trainer.update(ranks, setup, 0, experience(samples(model)))
    engine = ranks.held[trainer.HELD].engine
    last = engine.weights()
    trainer.export(ranks, setup)
    written = load_file(tmp_path / "out" / "model.safetensors")
    for name, average in engine.ema.state().items():
        assert written[name].equal(average) and not written[name].equal(last[name])


def test_the_trainer_drops_nothing_out(tmp_path):
    """With dropout the importance ratio would be noise: here it is 1 before the first step."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=32, n_layer=1, n_head=2, n_positions=64, initializer_range=0.2))
    assert model.config.resid_pdrop == model.config.attn_pdrop == 0.1
    model.eval().save_pretrained(tmp_path / "model")
    cfg, ranks = config(), Ranks(0, 1, torch.device("cpu"), None, NoHeartbeat())
    setup = setup_of(tmp_path)
    trainer.build(ranks, cfg, setup)
    found = trainer.update(ranks, setup, 0, experience(samples(model)))
    assert abs(found["mismatch_kl"]) < 1e-6 and found["clip_ratio"] == 0.0


def built(folder, cfg, **table):
    """Ranks that hold the trainer of a tiny model, its setup, and samples of that model."""
    model = tiny_model(vocab=64, hidden=32, layers=1)
    model.save_pretrained(folder / "model")
    tiny_tokenizer(64).save_pretrained(folder / "model")
    ranks, setup = Ranks(0, 1, torch.device("cpu"), None, NoHeartbeat()), setup_of(folder, **table)
    ranks.say = print
    trainer.build(ranks, cfg, setup)
    return ranks, setup, samples(model)


class Anchored(Grpo):
    """Tells how far the trainer is from its start."""

    needs: ClassVar[tuple[str, ...]] = ("reference",)

    def loss(self, inputs):
        made = super().loss(inputs)
        apart = ((inputs.logprob_BT - inputs.reference_BT).abs() * inputs.mask_BT).sum().detach()
        return made._replace(metrics={**made.metrics, "apart": apart})


@pytest.mark.parametrize("table", [{}, {"adapter": {"rank": 2}}])
def test_the_reference_is_the_start_with_an_adapter_and_without(tmp_path, table):
    cfg = config(algorithm={"kind": "custom", "path": "tests.rl.test_trainer:Anchored"}, **table)
    ranks, setup, given = built(tmp_path, cfg)
    assert (ranks.held[trainer.HELD].reference is None) == bool(table)
    found = [trainer.update(ranks, setup, at, experience(given, at))["apart"] for at in range(2)]
    assert found[0] < 1e-5 < found[1]


def test_generators_get_an_adapter_merged_and_peft_loads_it(tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    ranks, setup, given = built(tmp_path, config(adapter={"rank": 2}, iterations=2))
    for at in range(2):
        trainer.update(ranks, setup, at, experience(given, at))
    sent = {name: tensor.clone() for name, tensor in ranks.held[trainer.HELD].weights()}
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert sent.keys() == base.state_dict().keys()
    changed = [name for name, tensor in base.state_dict().items() if not tensor.equal(sent[name])]
    assert changed and all("proj" in name for name in changed)
    trainer.export(ranks, setup)
    tuned = PeftModel.from_pretrained(base, tmp_path / "out" / "adapter").merge_and_unload().state_dict()
    assert all(torch.allclose(tuned[name], sent[name], atol=1e-6) for name in changed)


def test_a_spike_is_passed_over_and_leaves_weights_and_ledger(tmp_path):
    cfg = config(spikes={"warmup": 2, "window": 4, "norm_z": 4.0})
    ranks, setup, given = built(tmp_path, cfg)
    rows = [trainer.update(ranks, setup, at, experience(given, at)) for at in range(3)]
    before = {name: tensor.clone() for name, tensor in ranks.held[trainer.HELD].weights()}
    wild = [sample._replace(advantages=[1e4] * len(sample.logprobs)) for sample in given]
    decision = trainer.update(ranks, setup, 3, experience(wild, 3))["decision"]
    assert (decision["what"], decision["to"], decision["rows"]) == ("skip", 3, [0, 1, 2, 3, 4])
    assert all(tensor.equal(before[name]) for name, tensor in ranks.held[trainer.HELD].weights())
    found = trainer.update(ranks, setup, 3, experience(given, 4))
    assert found["optimizer_steps"] == 4 and len(rows) == 3


def test_more_gradients_that_are_not_finite_than_allowed_end_the_run(tmp_path):
    ranks, setup, given = built(tmp_path, config(max_skipped=1))
    wild = [sample._replace(advantages=[float("nan")] * len(sample.logprobs)) for sample in given]
    assert not trainer.update(ranks, setup, 0, experience(wild))["finite"]
    with pytest.raises(TrainingError, match="step 1: gradient norm nan") as caught:
        trainer.update(ranks, setup, 1, experience(wild, 1))
    assert "rows [0, 1, 2, 3, 4]" in caught.value.where


def test_a_checkpoint_brings_back_iteration_rows_and_ledger(tmp_path):
    ranks, setup, given = built(tmp_path, config(iterations=4))
    for at in range(2):
        trainer.update(ranks, setup, at, experience(given if at else [], at))
    trainer.save(ranks, setup, 2, {"version": 1, "learned": 1, "before": {}}, [{"step": 0}, {"step": 1, "loss": 0.5}])
    trainer.update(ranks, setup, 2, experience(given, 2))
    found = trainer.build(ranks, config(iterations=4), setup)
    assert (found["iteration"], found["version"], found["step"]) == (2, 1, 2)
    assert found["optimizer_steps"] == 1
    assert History(Folder(setup.work)).read(2) == [{"step": 0}, {"step": 1, "loss": 0.5}]
    for at in range(2, 4):
        trainer.update(ranks, setup, at, experience(given[1:], at))
    trainer.save(ranks, setup, 4, {}, [{"step": 2}, {"step": 3}])
    trainer.export(ranks, setup)
    ledger = read_parquet(Folder(setup.out), LEDGER).to_pylist()
    learned = [[row["row"] for row in ledger if row["step"] == at and row["trained"]] for at in range(4)]
    assert learned == [[], [0, 1, 2, 3, 4], [1, 2, 3, 4], [1, 2, 3, 4]] and len(ledger) == 20


def test_spikes_of_a_policy_are_those_of_its_gradient(tmp_path):
    """Before clipping sets in the loss of GRPO is about 0, and its scatter is rounding."""
    ranks, _, _ = built(tmp_path, config(spikes={}))
    course = ranks.held[trainer.HELD].course
    assert all(course.takes(1e-8 * (-1) ** at, 1.0 + 0.01 * (at % 7)) for at in range(60))
    assert course.takes(2e-4, 1.0)
    assert not course.takes(2e-4, 50.0) and not course.takes(float("nan"), 1.0)
