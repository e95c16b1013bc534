"""Rewards of the steps of a completion, at their last tokens or together."""

from __future__ import annotations

import pytest
import torch

from raylm.core.errors import ConfigError
from raylm.rl.rewards.combine import rollout_of
from raylm.rl.rewards.process_reward import ProcessReward, step_ends
from raylm.rl.rewards.role_worker import RoleWorker, Where
from raylm.rl.types import Prompt, Score, Trajectory, experience_of
from tests.model.tiny import tiny_tokenizer
from tests.rl.rewards.test_reward_model import reward_folder

TEXT = "First é.\n\nSecond.\n\n\n\nThe end"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    at = tmp_path_factory.mktemp("models")
    reward_folder(at / "reward", 300)
    reward_folder(at / "other", 320)
    return at


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        (TEXT, ["First é.\n\n", "Second.\n\n", "\n\nThe end"]),
        ("no step", ["no step"]),
        ("a\n\n", ["a\n\n"]),
        ("a\n\nb\n\n", ["a\n\n", "b\n\n"]),
        ("\n\n", ["\n\n"]),
        ("", []),
    ],
)
def test_a_step_ends_with_the_token_that_completes_a_separator(text, steps):
    coder = tiny_tokenizer(300)
    tokens = coder.encode(text)
    ends = step_ends(tokens, coder, "\n\n")
    starts = [0, *(end + 1 for end in ends)]
    found = [coder.decode(tokens[start : end + 1]) for start, end in zip(starts, ends, strict=False)]
    # a token may reach over the border: what it completes belongs to the step that it ends
    assert len(found) == len(steps) and "".join(found) == "".join(steps)
    assert all("\n\n" in step for step in found[:-1])


def test_each_step_is_rewarded_at_its_last_token(root):
    from transformers import AutoModelForSequenceClassification

    coder = tiny_tokenizer(300)
    prompt, tokens = Prompt(0, [1, 3, 70, 4], "[]", None), [*coder.encode(TEXT), coder.eos_token_id]
    drawn = Trajectory(tokens, [-1.0] * len(tokens), TEXT, "stop")
    worker = RoleWorker(ProcessReward(model="rm", sigmoid=True), Where(str(root / "reward"), str(root / "reward")))
    judged = worker.score(prompt, [drawn, drawn._replace(tokens=tokens[:3])])
    (rewards, short), ends = judged.token_rewards, step_ends(tokens, coder, "\n\n")
    model = AutoModelForSequenceClassification.from_pretrained(root / "reward")
    with torch.no_grad():
        values = [float(model(torch.tensor([[*prompt.tokens, *tokens[: end + 1]]])).logits[0, 0].sigmoid()) for end in ends]
    assert [rewards[end] for end in ends] == pytest.approx(values, abs=1e-5) and len(ends) == 3
    assert sum(one != 0 for one in rewards) == 3 and len(short) == 3
    assert judged.found[0].value == pytest.approx(min(values), abs=1e-5) and judged.found[0].reason == "3 steps"
    # weighed, beside the score
    rollout = rollout_of(prompt, drawn, ["right", "steps"], [1.0, 0.0], [Score(1.0, ""), judged.found[0]], [(0.5, rewards)])
    (sample,) = experience_of([rollout], [0], 0).samples
    assert sample.reward == 1.0 and [sample.token_rewards[end] for end in ends] == pytest.approx(
        [0.5 * v for v in values], abs=1e-5
    )


def test_steps_may_be_a_part_of_the_score(root):
    coder = tiny_tokenizer(300)
    drawn = Trajectory(coder.encode(TEXT), [], TEXT, "stop")
    prompt, where = Prompt(0, [1, 3], "[]", None), Where(str(root / "reward"), str(root / "reward"))
    together = {}
    for aggregate in ("min", "mean", "last", "sum"):
        judged = RoleWorker(ProcessReward(model="rm", to="score", aggregate=aggregate), where).score(prompt, [drawn])
        assert judged.token_rewards is None
        together[aggregate] = judged.found[0].value
    assert together["sum"] == pytest.approx(3 * together["mean"], abs=1e-5)
    assert together["min"] <= min(together["mean"], together["last"])


def test_a_model_of_another_tokenizer_is_refused(root):
    worker = RoleWorker(ProcessReward(model="rm"), Where(str(root / "other"), str(root / "reward")))
    with pytest.raises(ConfigError, match="cannot read them"):
        worker.score(Prompt(0, [1], "[]", None), [Trajectory([5], [], "a", "stop")])


def test_rewards_at_another_number_of_tokens_score_nothing():
    drawn = Trajectory([5, 6], [-1.0] * 2, "a", "stop")
    rollout = rollout_of(Prompt(0, [1], "[]", None), drawn, ["a"], [0.0], [Score(1.0, "")], [(1.0, [0.5])])
    assert rollout.score is None and rollout.unscored.kind == "wrong_length"
