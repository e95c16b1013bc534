"""Three updates of a trainer with hand-made samples, on one rank or two."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from raylm.data.batch import pad
from raylm.model.logprobs import token_logprobs
from raylm.parallel.group.heartbeat import NoHeartbeat
from raylm.parallel.group.ranks import Ranks
from raylm.parallel.optimizers.adamw import AdamW
from raylm.rl import trainer
from raylm.rl.config import RL
from raylm.rl.types import Sample
from tests.model.tiny import tiny_model


def config(**table: Any) -> RL:
    usual = {
        "stage": "rl",
        "prompts": "prompts",
        "model": "base",
        "rewards": [{"kind": "pattern", "pattern": ".*"}],
        "iterations": 3,
        "micro_batch": 2,
        "temperature": 0.7,
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
        made.append(Sample(tokens, 3, logprobs, 1.0 - 0.5 * index))
    return made


def learn(strategy: Any, folder: Path, rank: int, world: int, advantage: float | None = None, **table: Any) -> dict[str, Any]:
    """Three updates from a saved tiny model; the same samples each time, so that ratios leave 1. `advantage` is for all."""
    model = tiny_model(vocab=64, hidden=32, layers=1)
    # with ranks around it transformers lets rank 0 alone write
    model.save_pretrained(folder / "model")
    if world > 1:
        torch.distributed.barrier()
    given = [sample if advantage is None else sample._replace(advantage=advantage) for sample in samples(model)]
    cfg = config(strategy=strategy, **table)
    setup = trainer.Setup(run="x", model_path=str(folder / "model"), pad_id=0, out=str(folder / "out"), work=str(folder / "work"))
    ranks = Ranks(rank, world, torch.device("cpu"), None, NoHeartbeat())
    fresh = trainer.update(ranks, cfg, setup, given)
    trainer.build(ranks, cfg, setup)
    stats = [trainer.update(ranks, cfg, setup, given) for _ in range(3)]
    other = trainer.update(ranks, cfg, setup.model_copy(update={"run": "y"}), given)
    skipped = trainer.skip(ranks, cfg, setup)
    engine = ranks.held[trainer.STATE][1]
    return {"fresh": fresh, "stats": stats, "other": other, "skipped": skipped, "done": engine.done, "weights": engine.weights()}
