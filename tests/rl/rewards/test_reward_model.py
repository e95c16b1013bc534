"""A trained reward model as a reward: tokens as they were drawn, or rendered by its own tokenizer; in an actor of its own."""

from __future__ import annotations

import json

import pytest
import torch

from raylm.core.errors import ConfigError
from raylm.model.value_head import with_value_head
from raylm.rl.reward_workers import RewardWorkers
from raylm.rl.rewards.reward_model import RewardModel
from raylm.rl.rewards.role_worker import RoleWorker, Where
from raylm.rl.types import Prompt, Trajectory, Unscored
from tests.model.tiny import tiny_checkpoint, tiny_model, tiny_tokenizer
from tests.rl.samples import config

ASKED = [{"role": "user", "content": "Which one?"}]


def reward_folder(at, vocab: int):
    model = with_value_head(tiny_model(vocab=vocab, hidden=32, layers=1), 3)
    model.score.weight.data.mul_(20)
    model.save_pretrained(at)
    tiny_tokenizer(vocab).save_pretrained(at)
    return str(at)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    at = tmp_path_factory.mktemp("models")
    tiny_checkpoint(at / "policy", vocab=300, layers=1)
    reward_folder(at / "reward", 300)
    reward_folder(at / "other", 320)
    return at


@pytest.fixture(scope="module")
def rows(root):
    """A prompt and three answers to it, the last of which was cut."""
    coder = tiny_tokenizer(300)
    prompt = Prompt(0, coder.apply_chat_template(ASKED, add_generation_prompt=True, return_dict=False), json.dumps(ASKED), None)
    end = coder.eos_token_id
    texts = ["This one.", "That, says é.", "Neither of"]
    tokens = [[*coder.encode(text), end] for text in texts[:2]] + [coder.encode(texts[2])]
    drawn = [
        Trajectory(each, [], text, "stop" if each[-1] == end else "length") for each, text in zip(tokens, texts, strict=True)
    ]
    return prompt, drawn


def oracle(folder, sequences):
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        return [float(model(torch.tensor([tokens])).logits[0, 0]) for tokens in sequences]


def test_tokens_are_read_as_they_were_drawn(root, rows):
    prompt, drawn = rows
    worker = RoleWorker(RewardModel(model="reward"), Where(str(root / "reward"), str(root / "policy")))
    found = worker.score(prompt, drawn).found
    wanted = oracle(root / "reward", [[*prompt.tokens, *each.tokens] for each in drawn])
    assert [one.value for one in found] == pytest.approx(wanted, abs=1e-5) and len({round(one, 4) for one in wanted}) == 3
    card = RewardModel(model="reward", center=wanted[0], clip=0.01)
    clipped = RoleWorker(card, Where(str(root / "reward"), str(root / "policy"))).score(prompt, drawn).found
    assert clipped[0].value == pytest.approx(0.0, abs=1e-5) and {abs(one.value) <= 0.01 + 1e-9 for one in clipped} == {True}


def test_a_model_of_another_tokenizer_reads_the_text_by_its_own_template(root, rows):
    prompt, drawn = rows
    found = RoleWorker(RewardModel(model="other"), Where(str(root / "other"), str(root / "policy"))).score(prompt, drawn).found
    coder = tiny_tokenizer(320)
    dialogues = [[*ASKED, {"role": "assistant", "content": each.text}] for each in drawn]
    rendered = [coder.apply_chat_template(each, tokenize=True, return_dict=False) for each in dialogues]
    assert all(each[-1] == coder.eos_token_id for each in rendered)
    rendered[2] = rendered[2][:-1]  # it was cut: it has no end
    assert [one.value for one in found] == pytest.approx(oracle(root / "other", rendered), abs=1e-5)


def test_what_the_model_cannot_read_costs_that_completion_alone(root, rows):
    prompt, drawn = rows
    worker = RoleWorker(RewardModel(model="reward"), Where(str(root / "reward"), str(root / "policy")))
    found = worker.score(prompt, [drawn[0], drawn[1]._replace(tokens=[5] * 600), drawn[2]]).found
    assert isinstance(found[1], Unscored) and "512 positions" in found[1].why
    assert [found[0].value, found[2].value] == pytest.approx([one.value for one in worker.score(prompt, drawn[::2]).found])


def test_a_language_model_is_no_reward_model(root, rows):
    worker = RoleWorker(RewardModel(model="policy"), Where(str(root / "policy"), str(root / "policy")))
    with pytest.raises(ConfigError, match="no value head"):
        worker.score(*rows)


def test_its_role_stands_in_the_stage():
    cfg = config(rewards=[{"kind": "reward_model", "model": "rm", "gpus": 1.0, "count": 2}, {"kind": "pattern", "pattern": "a"}])
    role = cfg.roles()["reward_reward_model"]
    assert (role.count, role.gpus) == (2, 1.0)
    same = config(rewards=[{"kind": "reward_model", "model": "rm"}, {"kind": "pattern", "pattern": "a"}])
    assert same.fingerprint() == cfg.fingerprint()


@pytest.mark.ray
def test_beside_rewards_of_texts_in_an_actor_of_its_own(root, rows, workers):
    import os
    import signal

    import ray

    workers.ensure()
    prompt, drawn = rows
    cards = [
        {"kind": "pattern", "pattern": ".*one.*", "value": 1.0},
        {"kind": "reward_model", "model": "rm", "weight": 0.5, "name": "taste"},
    ]
    where = Where(str(root / "reward"), str(root / "policy"))
    rewards = RewardWorkers(config(rewards=cards), workers, lambda model: where)
    taste = oracle(root / "reward", [[*prompt.tokens, *each.tokens] for each in drawn])
    found = rewards.score([prompt], [drawn])
    assert [one.score.value for one in found] == pytest.approx(
        [(1.0 if "one" in each.text else 0.0) + 0.5 * value for each, value in zip(drawn, taste, strict=True)], abs=1e-5
    )
    assert found[0].parts["taste"].value == pytest.approx(taste[0], abs=1e-5)
    # its death costs nobody a score
    actor = rewards._crews[1]._actors[0]
    pid = ray.get(actor.__ray_call__.remote(lambda self: os.getpid()))
    for row in range(3):
        rewards.submit(row, prompt, drawn)
    os.kill(pid, signal.SIGKILL)
    again: dict = {}
    while len(again) < 3:
        again.update(rewards.poll(10.0))
    for rollouts in again.values():
        assert [one.score.value for one in rollouts] == [one.score.value for one in found]
    workers.release("reward_taste:")
    workers.release("rewards:")
