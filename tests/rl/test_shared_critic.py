"""A critic on the policy's backbone against a plain loop, on one rank and on two; what is exported knows nothing of it."""

from __future__ import annotations

from statistics import mean

import pytest
import torch
from pydantic import ValidationError

from raylm.core.config import digest_of
from raylm.core.errors import ConfigError
from raylm.rl import trainer
from raylm.rl.algorithms.ppo import Ppo
from raylm.rl.checks import check_cards
from raylm.rl.minibatches import in_minibatches
from raylm.rl.types import Experience
from tests.parallel.on_ranks import on_ranks
from tests.rl import copying
from tests.rl.test_policy import learned
from tests.rl.valued import EPS, KL, TEMPERATURE, Valued, drawn, started, valued_config, write

COEFFICIENT = 0.5
SHARED = {"backbone": "shared", "coefficient": COEFFICIENT}


def iterated(rank, world, folder, table, given):
    cfg = valued_config(critic=SHARED, **table)
    ranks, setup = started(rank, world, folder, cfg)
    held = ranks.held[trainer.HELD]
    start = held.engine.bare.value_head.weight.detach()
    start = (start.full_tensor() if hasattr(start, "full_tensor") else start).clone()
    scored = trainer.score(ranks, setup, Experience(given, list(range(4)), 0), Valued.needs).samples
    rows = [learned(ranks, setup, at, given) for at in range(cfg.iterations)]
    end = held.engine.bare.value_head.weight.detach()
    end = (end.full_tensor() if hasattr(end, "full_tensor") else end).clone()
    return {"start": start, "end": end, "scored": scored, "rows": rows, "policy": {k: t.clone() for k, t in held.weights()}}


def by_hand(folder, given, cfg, start):
    """One model of transformers, and a vector that makes a value of its last hidden state."""
    from transformers import AutoModelForCausalLM

    policy, reference = (AutoModelForCausalLM.from_pretrained(folder / "model") for _ in range(2))
    vector = torch.nn.Parameter(start.clone())
    optimizer = torch.optim.AdamW([*policy.parameters(), vector], lr=1e-3, betas=(0.9, 0.95), eps=EPS, weight_decay=0.0)

    def said(model, sample):
        found = model(torch.tensor([sample.tokens]), output_hidden_states=True)
        logits, hidden = (each[0, sample.num_prompt - 1 : -1] for each in (found.logits / TEMPERATURE, found.hidden_states[-1]))
        completion = torch.tensor(sample.tokens[sample.num_prompt :])[:, None]
        return logits.log_softmax(-1).gather(1, completion)[:, 0], (hidden @ vector.T)[:, 0]

    first = None
    for iteration in range(cfg.iterations):
        with torch.no_grad():
            known = {id(s): (*said(policy, s), said(reference, s)[0]) for s in given}
        first = first or [known[id(s)] for s in given]
        for epoch in range(cfg.epochs):
            seed = int(digest_of([cfg.seed, "minibatches", iteration, epoch])[:12], 16)
            for part in in_minibatches(given, cfg.minibatches, seed):
                total = torch.zeros(())
                for sample in part:
                    old, old_values, start_logprobs = known[id(sample)]
                    weight = torch.tensor(sample.mask) * (1.0 + 0.5 * (sample.row % 2))
                    new, now = said(policy, sample)
                    ratio, gain = (new - old).exp(), sample.reward - old_values
                    kept = torch.minimum(ratio * gain, ratio.clamp(0.8, 1.2) * gain)
                    near = old_values + (now - old_values).clamp(-0.2, 0.2)
                    worse = torch.maximum((now - sample.reward) ** 2, (near - sample.reward) ** 2)
                    total = total + ((KL * (new - start_logprobs) - kept + COEFFICIENT * worse) * weight).sum()
                optimizer.zero_grad()
                (total / (2.0 * len(part))).backward()
                torch.nn.utils.clip_grad_norm_([*policy.parameters(), vector], 1.0)
                optimizer.step()
    return {"first": first, "policy": policy.state_dict(), "end": vector.detach()}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain")
    given = drawn(write(folder))
    alone = iterated(0, 1, folder, {}, given)
    return {"folder": folder, "given": given, "alone": alone, "hand": by_hand(folder, given, valued_config(), alone["start"])}


def furthest(left, right):
    assert left.keys() <= right.keys()
    return max(float((tensor - right[name]).abs().max()) for name, tensor in left.items())


def test_values_losses_and_weights_are_those_of_a_plain_loop_and_the_head_is_not_exported(plain):
    alone, hand = plain["alone"], plain["hand"]
    for sample, (old, values, _) in zip(alone["scored"], hand["first"], strict=True):
        assert torch.allclose(torch.as_tensor(sample.values), values, atol=1e-5)
        assert torch.allclose(torch.as_tensor(sample.trainer_logprobs), old * torch.tensor(sample.mask), atol=1e-5)
    assert not any(name.startswith("value_head") for name in alone["policy"])
    assert furthest(alone["policy"], hand["policy"]) < 2e-5 and float((alone["end"] - hand["end"]).abs().max()) < 2e-5
    assert float((alone["end"] - alone["start"]).abs().max()) > 1e-3
    rows = alone["rows"]
    assert rows[0]["critic_loss"] > rows[1]["critic_loss"] and "critic_lr" not in rows[0]
    assert rows[1]["explained_variance"] > rows[0]["explained_variance"]


@pytest.mark.parametrize("strategy", ["fsdp", pytest.param("ddp", marks=pytest.mark.long)])
def test_two_ranks_do_what_one_does(plain, strategy):
    table = {"strategy": {"kind": strategy}, "workers": {"count": 2}}
    found = on_ranks(2, iterated, plain["folder"], table, plain["given"])[0]
    assert furthest(found["policy"], plain["alone"]["policy"]) < 5e-5
    assert float((found["end"] - plain["alone"]["end"]).abs().max()) < 5e-5
    for left, right in zip(found["rows"], plain["alone"]["rows"], strict=True):
        for name in ("loss", "critic_loss", "critic_value", "grad_norm"):
            assert left[name] == pytest.approx(right[name], rel=1e-3, abs=1e-5), name


def test_a_resumed_run_has_the_values_that_it_had(plain, tmp_path):
    cfg = valued_config(critic=SHARED)
    ranks, setup = started(0, 1, plain["folder"], cfg, work=str(tmp_path))
    learned(ranks, setup, 0, plain["given"])
    trainer.save(ranks, setup, 1, {}, [])
    assert trainer.build(ranks, cfg, setup)["iteration"] == 1
    learned(ranks, setup, 1, plain["given"])
    held = ranks.held[trainer.HELD].engine
    assert held.bare.value_head.weight.detach().equal(plain["alone"]["end"])


def test_the_head_learns_where_the_rest_of_the_policy_is_frozen(plain):
    """A head of random numbers that nobody trains would read values of them."""
    cfg = valued_config(critic=SHARED, unfrozen_parameters=["model.layers"])
    ranks, _ = started(0, 1, plain["folder"], cfg)
    model = ranks.held[trainer.HELD].engine.bare
    assert model.value_head.weight.requires_grad and not model.get_input_embeddings().weight.requires_grad


@pytest.mark.parametrize(
    ("table", "why"),
    [
        ({"adapter": {"kind": "lora"}}, "an adapter trains no layer beside the output head"),
        ({"mesh": {"tensor": 2}, "workers": {"count": 2}}, "leave the mesh to data ranks"),
        ({"strategy": {"kind": "deepspeed"}}, "proved with ddp and fsdp alone"),
    ],
)
def test_layouts_without_a_place_for_it_are_refused(table, why):
    with pytest.raises(ConfigError, match=why):
        check_cards(valued_config(algorithm={"kind": "ppo"}, critic=SHARED, **table))


def test_what_a_critic_of_its_own_has_is_refused_beside_a_shared_backbone():
    with pytest.raises(ValidationError, match="has none of its own: drop model, warmup_iterations"):
        valued_config(critic={**SHARED, "model": "judge", "warmup_iterations": 1})
    with pytest.raises(ValidationError, match="`coefficient` weighs two losses of one model"):
        valued_config(critic={"coefficient": 0.5})


@pytest.mark.long
def test_ppo_with_a_shared_backbone_learns_to_copy(tmp_path, monkeypatch):
    monkeypatch.setattr(copying, "PROMPTS", 128)
    rows: list[dict[str, float]] = []
    rewards = copying.learn_to_copy(
        tmp_path, Ppo(entropy=0.05), 115, lr=2e-3, minibatches=4, critic={"backbone": "shared", "coefficient": 8.0}, rows=rows
    )
    assert mean(rewards[:5]) < 0.15 and mean(rewards[-5:]) >= 0.95
    learning = [row["explained_variance"] for row, reward in zip(rows, rewards, strict=True) if 0.3 < reward < 0.6]
    assert mean(learning) > 0.5
