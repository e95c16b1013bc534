"""Epochs, minibatches, scoring and critic of the trainer against a plain loop, on one rank and on several."""

from __future__ import annotations

import copy

import pytest
import torch

from raylm.core.errors import StageError
from raylm.parallel.optimizers.adamw import AdamW
from raylm.rl import trainer
from raylm.rl.policy import _combined
from raylm.rl.types import Experience
from tests.parallel.on_ranks import on_ranks
from tests.rl.valued import Valued, by_hand, drawn, iterated, saved, started, valued_config, write

ASKS = list(range(4))
NEEDS = Valued.needs


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Samples, and the two iterations on one rank and by hand."""
    folder = tmp_path_factory.mktemp("plain")
    given = drawn(write(folder))
    ranks, _ = started(0, 1, folder, valued_config())
    critic = copy.deepcopy(ranks.held[trainer.HELD].critic.bare)
    alone = iterated(0, 1, folder, {}, given)
    return {"folder": folder, "given": given, "alone": alone, "hand": by_hand(folder, given, valued_config(), critic)}


def test_scores_and_updates_are_those_of_a_plain_loop(plain):
    alone, hand = plain["alone"], plain["hand"]
    for found, known in zip(alone["scores"], hand["scores"], strict=True):
        for sample, (old, start, values) in zip(found, known, strict=True):
            mask = torch.tensor(sample.mask)
            for left, right in ((sample.trainer_logprobs, old * mask), (sample.reference_logprobs, start * mask)):
                assert torch.allclose(torch.as_tensor(left), right, atol=1e-5)
            assert torch.allclose(torch.as_tensor(sample.values), values, atol=1e-5)
    for name in ("policy", "critic"):
        moved = max(float((tensor - hand[name][key]).abs().max()) for key, tensor in alone[name].items())
        assert moved < 2e-5, name
    assert alone["steps"] == (8, 8)
    assert [row["optimizer_steps"] for row in alone["rows"]] == [4, 8]


def test_metrics_of_an_iteration_are_means_over_its_steps_weighed_by_their_samples(plain):
    rows, losses = plain["alone"]["rows"], plain["hand"]["losses"]
    weights = [[sum(sum(s.mask) * (1 + 0.5 * (s.row % 2)) for s in plain["given"])] for _ in rows]
    assert all(row["tokens"] == pytest.approx(1.0) for row in rows), "a mean of ones"
    assert abs(rows[0]["mismatch"]) < 1e-5 < rows[1]["mismatch"]
    assert min(loss for loss, _ in losses[:4]) <= rows[0]["loss"] <= max(loss for loss, _ in losses[:4]) and weights
    assert rows[0]["critic_loss"] > rows[1]["critic_loss"] and rows[0]["changed"] and rows[0]["critic_finite"]
    assert rows[1]["explained_variance"] > rows[0]["explained_variance"]


def test_the_mismatch_of_an_iteration_is_that_before_its_first_step():
    steps = [{"finite": True, "weight": 1.0, "mismatch_kl": at * 0.1, "nll": at} for at in range(3)]
    assert _combined(steps) == {"finite": True, "mismatch_kl": 0.0, "nll": 1.0}
    # one whose gradient was not finite changed nothing
    assert _combined([{**steps[0], "finite": False}, *steps[1:]])["mismatch_kl"] == 0.1


def same(found, alone):
    for left, right in zip(found["scores"], alone["scores"], strict=True):
        for one, other in zip(left, right, strict=True):
            for name in ("trainer_logprobs", "reference_logprobs", "values"):
                assert getattr(one, name) == pytest.approx(getattr(other, name), abs=2e-5)
    for left, right in zip(found["rows"], alone["rows"], strict=True):
        for name in ("loss", "mismatch", "tokens", "critic_loss", "critic_value", "grad_norm", "critic_grad_norm"):
            assert left[name] == pytest.approx(right[name], rel=1e-3, abs=1e-5), name
    for name in ("policy", "critic"):
        assert found[name].keys() == alone[name].keys()
        assert max(float((t - alone[name][key]).abs().max()) for key, t in found[name].items()) < 5e-5, name


@pytest.mark.parametrize("padding_free", [True, False])
def test_a_prompt_computed_once_changes_nothing(plain, padding_free):
    same(iterated(0, 1, plain["folder"], {"padding_free": padding_free, "micro_batch": 4}, plain["given"]), plain["alone"])


LAYOUTS = {
    "fsdp": {},
    "ddp": {"strategy": {"kind": "ddp"}},
    "deepspeed": {"strategy": {"kind": "deepspeed", "zero": 2}},
    "tensor": {"mesh": {"tensor": 2}},
    "context": {"mesh": {"context": 2}},
    "pipeline": {"mesh": {"pipeline": 2}},
}


@pytest.mark.parametrize("name", ["fsdp", *(pytest.param(each, marks=pytest.mark.long) for each in list(LAYOUTS)[1:])])
def test_two_ranks_do_what_one_does(plain, name):
    table = {**LAYOUTS[name], "workers": {"count": 2}}
    found = on_ranks(2, iterated, plain["folder"], table, plain["given"])
    same(found[0], plain["alone"])
    assert found[0]["steps"] == plain["alone"]["steps"]


@pytest.mark.parametrize("name", ["fsdp", *(pytest.param(each, marks=pytest.mark.long) for each in ("deepspeed", "pipeline"))])
def test_another_number_of_ranks_goes_on_with_policy_and_critic(plain, tmp_path, name):
    on_ranks(2, saved, plain["folder"], tmp_path, {**LAYOUTS[name], "workers": {"count": 2}}, plain["given"])
    ranks, setup = started(0, 1, plain["folder"], valued_config(), work=str(tmp_path))
    held = ranks.held[trainer.HELD]
    assert (held.saver.newest, held.engine.done, held.critic.done) == (1, 4, 4)
    row = learned(ranks, setup, 1, plain["given"])
    assert row["critic_loss"] == pytest.approx(plain["alone"]["rows"][1]["critic_loss"], rel=1e-3)
    for name, found in (("policy", held.weights()), ("critic", held.critic.weights().items())):
        assert max(float((t - plain["alone"][name][key]).abs().max()) for key, t in found) < 5e-5, name


def learned(ranks, setup, at, given):
    return trainer.update(ranks, setup, at, Valued().advantages(trainer.score(ranks, setup, Experience(given, ASKS, at), NEEDS)))


def test_a_gradient_that_is_not_finite_in_the_middle_of_an_update_costs_its_step(plain, capsys):
    cfg = valued_config(epochs=1, minibatches=4, iterations=1)
    ranks, setup = started(0, 1, plain["folder"], cfg)
    held = ranks.held[trainer.HELD]
    made = Valued().advantages(held.score(Experience(plain["given"], ASKS, 0), NEEDS))
    bad = [s._replace(advantages=s.advantages * float("nan")) if s.row == 2 else s for s in made.samples]
    row = trainer.update(ranks, setup, 0, made._replace(samples=bad))
    assert (row["finite"], row["changed"], row["skipped_steps"], row["optimizer_steps"]) == (True, True, 1, 3)
    assert row["loss"] == row["loss"] and held.facts["skipped"] == 1
    assert all(bool(tensor.isfinite().all()) for _, tensor in held.weights())


def test_the_critic_learns_alone_at_first_and_a_resumed_run_is_the_same(plain, tmp_path):
    start = {name: tensor.clone() for name, tensor in write(tmp_path).state_dict().items()}
    given, cfg = plain["given"], valued_config(iterations=3, critic={"warmup_iterations": 1})
    ranks, setup = started(0, 1, tmp_path, cfg)
    first = learned(ranks, setup, 0, given)
    assert not first["changed"] and first["finite"] and "loss" not in first and first["optimizer_steps"] == 0
    assert all(tensor.equal(start[name]) for name, tensor in ranks.held[trainer.HELD].weights())
    assert learned(ranks, setup, 1, given)["changed"]
    trainer.save(ranks, setup, 2, {}, [])
    ends = []
    for again in (False, True):
        if again:
            assert trainer.build(ranks, cfg, setup)["iteration"] == 2
        held = ranks.held[trainer.HELD]
        assert (held.engine.done, held.critic.done) == (8, 8)
        row = learned(ranks, setup, 2, given)
        named = {name: row[name] for name in row if not name.endswith("_s") and name != "memory_gb"}
        ends.append((named, {**held.engine.weights(), **{f"v.{k}": t for k, t in held.critic.weights().items()}}))
    assert ends[0][0] == ends[1][0]
    assert all(tensor.equal(ends[1][1][name]) for name, tensor in ends[0][1].items())


def test_an_adapter_on_the_policy_leaves_the_critic_whole_and_the_reference_is_the_start(plain, tmp_path):
    write(tmp_path)
    ranks, setup = started(0, 1, tmp_path, valued_config(adapter={"rank": 2}))
    rows = [learned(ranks, setup, at, plain["given"]) for at in range(2)]
    held = ranks.held[trainer.HELD]
    assert held.reference is None and rows[1]["changed"]
    assert {name.split(".")[-2] for name, _ in held.engine.trainable()} == {"default"}
    assert len(held.critic.trainable()) == len(list(held.critic.bare.parameters()))
    scored = trainer.score(ranks, setup, Experience(plain["given"], ASKS, 2), ("reference",)).samples
    for one, other in zip(scored, plain["alone"]["scores"][0], strict=True):
        assert one.reference_logprobs == pytest.approx(other.reference_logprobs, abs=2e-5)


def test_a_critic_starts_from_a_reward_model(plain, tmp_path):
    from raylm.model.value_head import with_value_head
    from tests.model.tiny import tiny_model
    from tests.rl.valued import SHAPE

    write(tmp_path)
    judge = with_value_head(tiny_model(**SHAPE, seed=9), 4)
    judge.save_pretrained(tmp_path / "judge")
    ranks, _ = started(0, 1, tmp_path, valued_config(), critic_path=str(tmp_path / "judge"))
    held = ranks.held[trainer.HELD].critic.weights()
    assert all(tensor.equal(held[name]) for name, tensor in judge.state_dict().items())


def test_samples_of_no_weight_change_nothing(plain):
    ranks, setup = started(0, 1, plain["folder"], valued_config())
    made = Valued().advantages(trainer.score(ranks, setup, Experience(plain["given"], ASKS, 0), NEEDS))
    still = made._replace(samples=[s._replace(mask=[0.0] * len(s.logprobs)) for s in made.samples])
    untaught = {(sample.row, sample.place): "no_signal" for sample in made.samples}
    assert trainer.update(ranks, setup, 0, still) == {"finite": True, "changed": False, "untaught": untaught}
    held = ranks.held[trainer.HELD]
    assert (held.engine.done, held.critic.done) == (4, 4), "the schedules come to their ends"


def test_samples_without_returns_are_refused(plain):
    ranks, setup = started(0, 1, plain["folder"], valued_config())
    made = Valued().advantages(trainer.score(ranks, setup, Experience(plain["given"], ASKS, 0), NEEDS))
    with pytest.raises(StageError, match="a sample has no returns"):
        trainer.update(ranks, setup, 0, made._replace(samples=[s._replace(returns=None) for s in made.samples]))


CARDS = {
    "gspo": {"kind": "gspo"},
    "grpo": {"kind": "grpo", "aggregation": "group", "entropy": 0.01, "kl": {"coefficient": 0.1}},
    "ppo": {"kind": "ppo", "kl": {"coefficient": 0.05, "in_reward": True}},
}


def two_iterations(rank, world, folder, algorithm, table, given):
    """Stats and weights of two iterations with an algorithm of the house."""
    critic = valued_config().critic if algorithm["kind"] == "ppo" else None
    # a gradient of rounding alone, where there is none, would be a whole step of Adam's
    table |= {"optimizer": AdamW(lr=1e-3, eps=1e-3, weight_decay=0.0, schedule="constant", warmup=0.0)}
    cfg = valued_config(algorithm={**algorithm, "num_generations": 3}, critic=critic, micro_batch=4, **table)
    ranks, setup = started(rank, world, folder, cfg)
    card, rows = cfg.algorithm, []
    for at in range(2):
        experience = trainer.score(ranks, setup, Experience(given, ASKS, at), card.needs)
        rows.append(trainer.update(ranks, setup, at, card.advantages(experience)))
    return {"rows": rows, "policy": {name: t.clone() for name, t in ranks.held[trainer.HELD].weights()}}


@pytest.mark.parametrize("name", CARDS)
def test_every_algorithm_learns_the_same_from_completions_that_share_a_prompt(plain, name):
    laid, padded = (
        two_iterations(0, 1, plain["folder"], CARDS[name], {"padding_free": free}, plain["given"]) for free in (True, False)
    )
    for left, right in zip(laid["rows"], padded["rows"], strict=True):
        names = [key for key in right if not key.endswith("_s") and key != "memory_gb"]
        assert {key: left[key] for key in names} == pytest.approx({key: right[key] for key in names}, rel=1e-3, abs=1e-6)
    assert max(float((t - padded["policy"][key]).abs().max()) for key, t in laid["policy"].items()) < 1e-5
    if name == "grpo":
        assert 0 < laid["rows"][1]["entropy"] < 4.2


def test_samples_of_a_step_that_was_not_finite_are_not_called_trained(plain):
    cfg = valued_config(epochs=1, minibatches=2)
    ranks, setup = started(0, 1, plain["folder"], cfg)
    made = Valued().advantages(trainer.score(ranks, setup, Experience(plain["given"], ASKS, 0), NEEDS))
    bad = made.samples[0].row
    spoilt = [s._replace(advantages=[float("nan")] * len(s.logprobs)) if s.row == bad else s for s in made.samples]
    found = trainer.update(ranks, setup, 0, made._replace(samples=spoilt))
    assert found["finite"] and found["changed"] and found["skipped_steps"] == 1
    untaught = {row for row, _ in found["untaught"]}
    assert bad in untaught and len(untaught) < len(ASKS) and set(found["untaught"].values()) == {"not_finite"}
    trained = {int(row): read.trained for read in ranks.held[trainer.HELD].ledger._open for row in read.rows}
    assert {row for row, is_trained in trained.items() if is_trained} == set(ASKS) - untaught
