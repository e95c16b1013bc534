"""The trainer's updates on hand-made samples, without Ray: numbers by hand, micro batches, iterations without samples."""

from __future__ import annotations

import pytest
import torch

from raylm.parallel.group.heartbeat import NoHeartbeat
from raylm.parallel.group.ranks import Ranks
from raylm.parallel.strategies.fsdp import Fsdp
from raylm.rl import trainer
from tests.model.tiny import tiny_model, tiny_tokenizer
from tests.rl.samples import config, learn, samples


def test_the_first_update_by_hand(tmp_path):
    """The samples are the model's own: every ratio is 1, nothing is clipped, the loss is the mean advantage per token."""
    found = learn(Fsdp(), tmp_path, 0, 1)["stats"]
    made = samples(tiny_model(vocab=64, hidden=32, layers=1))
    tokens = sum(len(sample.logprobs) for sample in made)
    assert found[0]["loss"] == pytest.approx(-sum(s.advantage * len(s.logprobs) for s in made) / tokens, abs=1e-5)
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
    assert found["fresh"] is None
    assert found["other"] is None


def test_an_iteration_without_samples_counts_and_changes_no_weight(tmp_path):
    found = learn(Fsdp(), tmp_path, 0, 1)
    assert found["skipped"] == {"finite": True}
    assert found["done"] == 4


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
    cfg, ranks = config(strategy=Fsdp(), ema=0.5), Ranks(0, 1, torch.device("cpu"), None, NoHeartbeat())
    at = {name: str(tmp_path / name) for name in ("out", "work")}
    setup = trainer.Setup(run="x", model_path=str(tmp_path / "model"), pad_id=0, **at)
    trainer.build(ranks, cfg, setup)
    trainer.update(ranks, cfg, setup, samples(model))
    engine = ranks.held[trainer.STATE].engine
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
    at = {name: str(tmp_path / name) for name in ("out", "work")}
    setup = trainer.Setup(run="x", model_path=str(tmp_path / "model"), pad_id=0, **at)
    trainer.build(ranks, cfg, setup)
    found = trainer.update(ranks, cfg, setup, samples(model))
    assert abs(found["mismatch_kl"]) < 1e-6 and found["clip_ratio"] == 0.0
