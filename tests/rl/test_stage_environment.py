"""The rl stage with an environment through Ray and vLLM: what several turns hold, and that they are learned from."""

from __future__ import annotations

import json
import random

import pytest

from raylm.core.artifact import Checkpoint, Prompts
from raylm.core.metrics import read_metrics
from raylm.data.shards import read_parquet
from raylm.rl.config import RL
from raylm.rl.stage import run
from tests.model.tiny import tiny_model, tiny_tokenizer
from tests.rows import make_rows
from tests.stages import context

pytestmark = [pytest.mark.ray, pytest.mark.vllm, pytest.mark.long]
ASKED = [{"role": "user", "content": "Guess."}]


def player(at, coder, steps=80):
    """A tiny model that says one of four numbers in each turn, whatever was answered."""
    import torch

    model = tiny_model(vocab=len(coder), hidden=64, layers=2)
    optimizer, draw = torch.optim.AdamW(model.parameters(), lr=2e-3), random.Random(0)
    for _ in range(steps):
        rows = []
        for _ in range(8):
            turns = [*ASKED]
            for _ in range(3):
                said = draw.choice(["higher", "lower"])
                turns += [{"role": "assistant", "content": str(draw.randint(1, 4))}, {"role": "user", "content": said}]
            rows.append(torch.tensor(coder.apply_chat_template(turns, tokenize=True, return_dict=True)["input_ids"])[:24])
        tokens = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        loss = model(input_ids=tokens, labels=tokens.masked_fill(tokens == 0, -100)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(at)
    coder.save_pretrained(at)


@pytest.fixture(scope="module")
def policy(tmp_path_factory, workers):
    at, coder = tmp_path_factory.mktemp("job"), tiny_tokenizer(300)
    tokens = coder.apply_chat_template(ASKED, tokenize=True, add_generation_prompt=True, return_dict=True)["input_ids"]
    rows = [{"tokens": tokens, "messages": json.dumps(ASKED), "ground_truth": str(1 + row % 4)} for row in range(16)]
    make_rows(at, "prompts", Prompts, rows, vocab=300)
    base = context(at, "base")
    player(base.out.uri, coder)
    base.commit(Checkpoint, facts={})
    cfg = RL(
        stage="rl",
        prompts="prompts",
        model="base",
        environment={"kind": "guess_number", "high": 4, "cost": 0.3},
        max_turns=4,
        max_turn_tokens=6,
        max_tokens=48,
        algorithm={"kind": "grpo", "num_generations": 6},
        optimizer={"lr": 2e-3, "weight_decay": 0.0, "warmup": 0.0, "schedule": "constant"},
        iterations=8,
        prompts_per_iteration=6,
        micro_batch=12,
        held_out_prompts=4,
        workers={"count": 1},
    )
    made = run(cfg, context(at, "policy", cfg, workers))
    yield made, coder
    workers.release()


def test_generator_and_trainer_agree_on_what_was_drawn_in_every_turn(policy):
    rows = read_metrics(policy[0].folder)
    assert [row["step"] for row in rows] == list(range(8)) and all(row["unscored"] == 0 for row in rows)
    # a mask or a log-probability that is one place off would tell other numbers
    assert max(abs(row["mismatch_kl"]) for row in rows) < 1e-5 and min(row["grad_norm"] for row in rows) > 0
    assert max(row["turns"] for row in rows) > 1.5 and max(row["environment/wrong_guesses"] for row in rows) > 0.5


def test_what_the_environment_said_stands_in_the_rollouts_and_is_no_draw(policy):
    made, coder = policy
    rollouts = [row for file in made.manifest.files if "rollouts" in file.path and file.path.endswith("parquet")
                for row in read_parquet(made.folder, file.path).to_pylist()]  # fmt: skip
    assert len(rollouts) >= 8 * 36
    several = [row for row in rollouts if row["turns"] > 1]
    for row in several:
        given = coder.decode([token for token, on in zip(row["tokens"], row["mask"], strict=True) if not on])
        drawn = [token for token, on in zip(row["tokens"], row["mask"], strict=True) if on]
        assert given.replace("<|user|>", "").replace("<|end|><|assistant|>", " ").split(" ")[0] in ("higher", "lower", "say")
        assert drawn.count(2) >= row["turns"] - 1 and not any(
            logprob for logprob, on in zip(row["logprobs"], row["mask"], strict=True) if not on
        )
        assert sum(span["end"] - span["start"] for span in row["versions"]) == len(drawn)
    assert several and {row["rewards"][0]["name"] for row in rollouts if row["score"]} == {"environment"}


def test_the_game_is_learned(policy):
    rows = read_metrics(policy[0].folder)
    assert sum(row["reward"] for row in rows[-3:]) > sum(row["reward"] for row in rows[:3])
