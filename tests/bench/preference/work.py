"""The work of the preference benchmarks: a model, pairs of unequal length, their order, the steps."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from tests.bench.finetune.work import SHAPE, TOKENS, VOCAB
from tests.bench.pretrain.work import _save_tokenizer

BATCH, STEPS, WARM = 8, 12, 3
LR, BETAS, CLIP, BETA = 1e-4, (0.9, 0.999), 1.0, 0.1


def pairs() -> list[dict[str, list[int]]]:
    """Prompts of about 100 tokens (8 to 500) with two answers of about 80 (8 to 400) each, as preference data have them; made of
    a few thousand fixed phrases, the chosen answers of one half of them, so that there is something to prefer."""
    import numpy as np

    draw = np.random.default_rng(0)
    phrases = draw.integers(3, VOCAB, (2000, 8))

    def words(median: float, most: int, first: int = 0) -> list[int]:
        size = int(np.clip(draw.lognormal(np.log(median), 0.7), 8, most))
        return phrases[(first + draw.zipf(1.3, size // 8 + 1)) % 2000].reshape(-1)[:size].tolist()

    return [
        {"prompt": words(100, 500), "chosen": [*words(80, 400)[:-1], 2], "rejected": [*words(80, 400, 1000)[:-1], 2]}
        for _ in range(BATCH * STEPS)
    ]


def order() -> list[int]:
    """Row numbers of all steps: raylm's order, so that both see the same batches."""
    from raylm.data.order import batch_indices

    return [row for step in range(STEPS) for row in batch_indices(BATCH * STEPS, BATCH, step, 0)]


def trained() -> list[int]:
    """Answer tokens of each step."""
    made = pairs()
    counts = [len(made[row]["chosen"]) + len(made[row]["rejected"]) for row in order()]
    return [sum(counts[at : at + BATCH]) for at in range(0, len(counts), BATCH)]


def save_model(at: Path) -> None:
    """The model before its first step, with its tokenizer, as transformers saves it."""
    from raylm.model.shapes.llama import Llama

    made: Any = Llama(**SHAPE).build(TOKENS, 0)
    made.save_pretrained(at)
    _save_tokenizer(str(at))


def save_pairs(root: Path) -> None:
    """The rows as an artifact of tokenize, in `root/pairs`."""
    import pyarrow as pa

    from raylm.core.artifact import Pairs
    from raylm.data.shards import write_arrow
    from tests.stages import context

    rows, ctx = pairs(), context(root, "pairs")
    table = pa.table(
        {name: pa.array([row[name] for row in rows], pa.list_(pa.int32())) for name in ("prompt", "chosen", "rejected")}
    )
    write_arrow(ctx.out, "train-00000.arrow", table)
    _save_tokenizer(ctx.out.path("tokenizer"))
    tokens = sum(len(part) for row in rows for part in row.values())
    ctx.commit(Pairs, facts={**TOKENS, "num_tokens": tokens}, rows={"train-00000.arrow": len(rows)})


def report(first_step_s: float, step_s: list[float], losses: list[float]) -> None:
    """Print what a contestant did, as its last line.

    Args:
        first_step_s: seconds from the start of the process to the end of its first step.
    """
    speeds = [count / seconds for count, seconds in zip(trained()[WARM:], step_s[WARM:], strict=True)]
    print(json.dumps({"tokens_per_s": statistics.median(speeds), "first_step_s": first_step_s, "losses": losses}))
