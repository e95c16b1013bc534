"""A task that a random tiny model learns in seconds: the prompt is "a b c =", the answer the last letter, four times.

The model has 74 thousand parameters and 14 words; TRL's GRPOTrainer learns the same in `tests/bench/grpo_speed.py`. It is learned
here without Ray and vLLM (`learn_to_copy`), or by the whole stage (`copying_job`, `copying_stage`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch

from raylm.core.artifact import Checkpoint, Prompts
from raylm.core.config import Config
from raylm.parallel.group.heartbeat import NoHeartbeat
from raylm.parallel.group.ranks import Ranks
from raylm.rl import trainer
from raylm.rl.config import RL
from raylm.rl.types import Prompt, Rollout, Score, Trajectory, experience_of
from tests.rl.samples import config, setup_of
from tests.rows import make_rows
from tests.stages import context

WORDS = ["<pad>", "<end>", "=", *"abcdefghijk"]
LENGTH = 4
PROMPTS, GENERATIONS = 16, 8
LR = 3e-3


class Copies(Config):
    """The rewards below as a card."""

    kind: Literal["copies"] = "copies"
    sparse: bool = False
    length: int = LENGTH

    def score(self, prompt: str, completion: str, ground_truth: str | None) -> Score:
        assert ground_truth
        found = completion.count(ground_truth) / self.length
        return Score(float(found == 1.0) if self.sparse else found, "share of right letters")


def copying_tokenizer() -> Any:
    """One token per word."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token=WORDS[0]))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token=WORDS[0], eos_token=WORDS[1])


def copying_model(seed: int = 0) -> Any:
    """A random Qwen2 of 2 layers and width 64."""
    from transformers.models.qwen2.configuration_qwen2 import Qwen2Config
    from transformers.models.qwen2.modeling_qwen2 import Qwen2ForCausalLM

    torch.manual_seed(seed)
    shape = {"hidden_size": 64, "intermediate_size": 104, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 64}
    ids = {"pad_token_id": 0, "bos_token_id": None, "eos_token_id": 1}
    return Qwen2ForCausalLM(Qwen2Config(vocab_size=len(WORDS), tie_word_embeddings=True, **shape, **heads, **ids))


def warmed_model(seed: int = 0, steps: int = 150) -> Any:
    """The model after supervised steps on answers of any letters of the question: what is left to learn is which of the three."""
    model, source = copying_model(seed), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0.0)
    for step in range(steps):
        asked = torch.tensor(questions(64, 100_000 + step))
        answer = asked.gather(1, torch.randint(3, (64, LENGTH), generator=source))
        logits_BTV = model(input_ids=torch.cat([asked, answer], 1)).logits[:, asked.shape[1] - 1 : -1]
        loss = torch.nn.functional.cross_entropy(logits_BTV.flatten(0, 1), answer.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


def questions(count: int, seed: int) -> list[list[int]]:
    """Prompts as tokens: three letters and an equals sign."""
    letters = torch.randint(3, len(WORDS), (count, 3), generator=torch.Generator().manual_seed(seed))
    return [[*row, 2] for row in letters.tolist()]


def dense(question: list[int], answer: list[int]) -> float:
    """The share of the answer that is right."""
    return sum(token == question[-2] for token in answer) / LENGTH


def sparse(question: list[int], answer: list[int]) -> float:
    """1 where all of it is right, else nothing: chance finds that once in 38 thousand answers."""
    return float(answer == [question[-2]] * LENGTH)


def copying_job(root: Path, num_prompts: int, seed: int = 0, model: Any = None) -> None:
    """The artifacts `prompts` and `base` in `root`; the base is random where no `model` is given."""
    rows = [
        {"tokens": tokens, "messages": " ".join(WORDS[token] for token in tokens), "ground_truth": WORDS[tokens[-2]]}
        for tokens in questions(num_prompts, seed)
    ]
    made = make_rows(
        root, "prompts", Prompts, rows, vocab=len(WORDS), tokenizer=copying_tokenizer(), bos_token_id=None, eos_token_id=1
    )
    base = context(root, "base")
    (model or copying_model(seed)).save_pretrained(base.out.uri)
    copying_tokenizer().save_pretrained(base.out.uri)
    base.commit(Checkpoint, variant="causal", facts=made.facts)


def copying_stage(**table: Any) -> RL:
    """Learn it by the recipe that is known to work: 16 prompts, 8 completions each, a learning rate of 3e-3."""
    usual = {
        "stage": "rl",
        "prompts": "prompts",
        "model": "base",
        "rewards": [{"kind": "custom", "path": "tests.rl.copying:Copies"}],
        "algorithm": {"kind": "grpo", "num_generations": GENERATIONS},
        "prompts_per_iteration": PROMPTS,
        "max_tokens": LENGTH,
        "micro_batch": PROMPTS * GENERATIONS,
        "held_out_prompts": 0,
        "save_every": 10**6,
        "optimizer": {"lr": LR, "weight_decay": 0.0, "warmup": 0.0, "schedule": "constant"},
    }
    return RL.model_validate(usual | table)


def draw(model: Any, prompts: list[list[int]], source: torch.Generator) -> list[Trajectory]:
    """One completion of each, at temperature 1."""
    tokens_BT = torch.tensor(prompts)
    picked: list[Any] = []
    with torch.no_grad():
        for _ in range(LENGTH):
            logprob_BV = model(input_ids=tokens_BT, use_cache=False).logits[:, -1].float().log_softmax(-1)
            token_B1 = torch.multinomial(logprob_BV.exp(), 1, generator=source)
            picked.append((token_B1[:, 0], logprob_BV.gather(1, token_B1)[:, 0]))
            tokens_BT = torch.cat([tokens_BT, token_B1], 1)
    token_BN, logprob_BN = (torch.stack(each, 1).tolist() for each in zip(*picked, strict=True))
    return [
        Trajectory(tokens, logprobs, " ".join(WORDS[token] for token in tokens), "length")
        for tokens, logprobs in zip(token_BN, logprob_BN, strict=True)
    ]


def learn_to_copy(
    folder: Path,
    card: Any,
    iterations: int,
    reward: Any = dense,
    seed: int = 0,
    lr: float = LR,
    rows: Any = None,
    base: Any = None,
    **table: Any,
) -> list[float]:
    """Mean reward of each iteration: the trainer and the algorithm as they are, and in place of vLLM a draw from the trainer's
    own model.

    Args:
        rows: takes the metrics of each iteration.
        base: the model to start from; else the random one.
    """
    (base or copying_model(seed)).save_pretrained(folder / "model")
    cfg = config(algorithm=card, iterations=iterations, temperature=1.0, micro_batch=PROMPTS * GENERATIONS, **table)
    cfg = cfg.model_copy(update={"optimizer": cfg.optimizer.model_copy(update={"lr": lr})})
    setup = setup_of(folder, steps=iterations, tokens={"pad_token_id": 0, "vocab_size": len(WORDS)}, length=8)
    ranks = Ranks(0, 1, torch.device("cpu"), None, NoHeartbeat())
    trainer.build(ranks, cfg, setup)
    model, source, means = ranks.held[trainer.HELD].engine.bare, torch.Generator().manual_seed(seed), []
    for iteration in range(iterations):
        asked = questions(PROMPTS, seed * 10_000 + iteration)
        drawn = draw(model, [tokens for tokens in asked for _ in range(card.num_generations)], source)
        rollouts = [
            Rollout(Prompt(place // card.num_generations, tokens, "[]", None), one, Score(reward(tokens, one.tokens), ""))
            for place, (tokens, one) in enumerate(
                zip([tokens for tokens in asked for _ in range(card.num_generations)], drawn, strict=True)
            )
        ]
        means.append(sum(one.score.value for one in rollouts if one.score) / len(rollouts))
        experience = experience_of(rollouts, list(range(PROMPTS)), iteration)
        needs = [need for need in card.needs if need in ("trainer_logprobs", "reference", "critic")]
        if needs:
            experience = trainer.score(ranks, setup, experience, needs)
        row = trainer.update(ranks, setup, iteration, card.advantages(experience))
        if rows is not None:
            rows.append(row)
    return means
