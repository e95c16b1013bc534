"""Three updates of a trainer with hand-made samples, on one rank or two."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from raylm.core.errors import GroupLost
from raylm.data.batch import pad
from raylm.model.scores import token_logprobs
from raylm.parallel.group.heartbeat import NoHeartbeat
from raylm.parallel.group.ranks import Ranks
from raylm.parallel.optimizers.adamw import AdamW
from raylm.rl import trainer
from raylm.rl.config import RL
from raylm.rl.types import Experience, Sample
from tests.model.tiny import tiny_model

NUMBERS = ("loss", "clip_ratio", "mismatch_kl", "nll", "grad_norm", "lr", "finite")


def config(**table: Any) -> RL:
    usual = {
        "stage": "rl",
        "prompts": "prompts",
        "model": "base",
        "rewards": [{"kind": "pattern", "pattern": ".*"}],
        "iterations": 3,
        "micro_batch": 2,
        "temperature": 0.7,
        # there are no prompts on disk; test_stage compares what is exported
        "check_export": {"samples": 0},
        "optimizer": AdamW(lr=1e-3, weight_decay=0.0, schedule="constant", warmup=0.0),
    }
    return RL(**usual | table)


def samples(model: torch.nn.Module, temperature: float = 0.7) -> list[Sample]:
    """Five samples of unequal length (no two ranks share them evenly) with the model's own log-probabilities."""
    draw = torch.Generator().manual_seed(3)
    made = []
    for index in range(5):
        tokens = torch.randint(3, 64, (5 + 2 * index,), generator=draw).tolist()
        padded = pad([torch.tensor(tokens)], [[0] * 3 + [1] * (len(tokens) - 3)], 0)
        with torch.no_grad():
            logprobs = token_logprobs(model, padded, temperature)[0, 3:].tolist()
        made.append(Sample(index, tokens, 3, logprobs, 0.0, [1.0 - 0.5 * index] * len(logprobs)))
    return made


def setup_of(folder: Path, **table: Any) -> trainer.Setup:
    """A run over the model in `folder`/model."""
    model = str(folder / "model")
    usual = {
        "rows_uris": ["prompts"],
        "num_rows": [5],
        "rows_kind": "Prompts",
        "model_path": model,
        "tokens": {"pad_token_id": 0},
        "steps": 3,
        "tokenizer_path": model,
        "out": str(folder / "out"),
        "work": str(folder / "work"),
        "run": "x",
        "prompt_rows": list(range(5)),
        "length": 16,
    }
    return trainer.Setup(**usual | table)


def experience(samples: list[Sample], position: int = 0) -> Experience:
    return Experience(samples, list(range(5)), position)


def learn(strategy: Any, folder: Path, rank: int, world: int, advantage: float | None = None, **table: Any) -> dict[str, Any]:
    """Three updates from a saved tiny model; the same samples each time, so that ratios leave 1. `advantage` is for all."""
    model = tiny_model(vocab=64, hidden=32, layers=1)
    # with ranks around it transformers lets rank 0 alone write
    model.save_pretrained(folder / "model")
    if world > 1:
        torch.distributed.barrier()
    given = samples(model)
    if advantage is not None:
        given = [sample._replace(advantages=[advantage] * len(sample.logprobs)) for sample in given]
    cfg, setup = config(strategy=strategy, **table), setup_of(folder)
    ranks = Ranks(rank, world, torch.device("cpu"), None, NoHeartbeat())
    lost = 0
    for run in ("x", "y"):
        try:
            # in a fresh group, and in one that holds the trainer of another run
            trainer.update(ranks, setup.model_copy(update={"run": run}), 0, experience(given))
        except GroupLost:
            lost += 1
        if run == "x":
            trainer.build(ranks, cfg, setup)
    rows = [trainer.update(ranks, setup, at, experience(given, at)) for at in range(3)]
    # what is left out differs from run to run: times and memory
    stats = [{name: row[name] for name in NUMBERS} for row in rows]
    skipped = trainer.update(ranks, setup, 3, experience([], 3))
    steps = ranks.held[trainer.HELD].facts[trainer.STEPS_TAKEN]
    engine = ranks.held[trainer.HELD].engine
    return {"lost": lost, "stats": stats, "skipped": skipped, "done": engine.done, "steps": steps, "weights": engine.weights()}
