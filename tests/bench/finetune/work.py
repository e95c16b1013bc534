"""The work of the fine-tuning benchmarks: a model, dialogues of unequal length, steps of 4,096 token slots.

The model and the setting are those in which axolotl and LLaMA-Factory were measured on such a machine: a Llama of 5.26 M
parameters, 999 rows of a question and an answer, rows of 1,024 tokens that several dialogues share.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any, NamedTuple

from tests.bench.pretrain.work import _save_tokenizer

SHAPE = {
    "kind": "llama",
    "hidden_size": 256,
    "num_layers": 4,
    "num_heads": 4,
    "intermediate_size": 688,
    "max_length": 1024,
    "tie_embeddings": False,
}
VOCAB, LENGTH, ROWS, NUM_DIALOGUES = 4096, 1024, 4, 999
STEPS, WARM = 25, 4
LR, BETAS, CLIP = 1e-3, (0.9, 0.999), 1.0
LORA = {"r": 8, "lora_alpha": 16, "lora_dropout": 0.0}
TOKENS = {"vocab_size": VOCAB, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "length": LENGTH}


class Dialogue(NamedTuple):
    """One row: what is read, and what is learned."""

    question: list[int]
    answer: list[int]


def dialogues() -> list[Dialogue]:
    """Questions of about 45 tokens (8 to 300) and answers of about 100 (8 to 700, the end token included), as instruction data
    have them; made of a few thousand fixed phrases, so that there is something to learn."""
    import numpy as np

    draw = np.random.default_rng(0)
    phrases = draw.integers(3, VOCAB, (2000, 8))

    def words(median: float, most: int) -> list[int]:
        size = int(np.clip(draw.lognormal(np.log(median), 0.8), 8, most))
        return phrases[draw.zipf(1.3, size // 8 + 1) % 2000].reshape(-1)[:size].tolist()

    return [Dialogue(words(45, 300), [*words(100, 700)[:-1], 2]) for _ in range(NUM_DIALOGUES)]


def save_model(at: Path, **more: Any) -> None:
    """The model before its first step, with its tokenizer, as transformers saves it.

    Args:
        more: keys of its shape that differ.
    """
    from raylm.model.shapes.llama import Llama

    made: Any = Llama(**SHAPE | more).build(TOKENS, 0)
    made.save_pretrained(at)
    _save_tokenizer(str(at))


def save_dialogues(root: Path) -> None:
    """The rows as an artifact of tokenize, in `root/dialogues`, packed by its own packing."""
    import numpy as np
    import pyarrow as pa

    from raylm.core.artifact import Dialogues
    from raylm.data.shards import write_arrow
    from raylm.tokenize import packing
    from tests.stages import context

    rows = dialogues()
    sizes = np.array([len(row.question) + len(row.answer) for row in rows], dtype=np.int64)
    layout = packing.first_fit_decreasing(sizes, LENGTH)
    begins = np.cumsum(sizes) - sizes
    tokens = np.concatenate([np.array(row.question + row.answer, dtype=np.int32) for row in rows])
    mask = np.concatenate([np.repeat([0, 1], [len(row.question), len(row.answer)]).astype(np.uint8) for row in rows])
    bounds = pa.array(np.append(0, np.cumsum(layout.row_sizes())), pa.int32())
    starts, cuts = packing.row_starts(layout)
    columns = {
        "tokens": pa.ListArray.from_arrays(bounds, pa.array(packing.gather(tokens, begins, layout))),
        "mask": pa.ListArray.from_arrays(bounds, pa.array(packing.gather(mask, begins, layout))),
        "starts": pa.ListArray.from_arrays(pa.array(cuts), pa.array(starts)),
    }
    ctx = context(root, "dialogues")
    write_arrow(ctx.out, "train-00000.arrow", pa.table(columns))
    _save_tokenizer(ctx.out.path("tokenizer"))
    ctx.commit(Dialogues, facts={**TOKENS, "num_tokens": int(sizes.sum())}, rows={"train-00000.arrow": layout.num_rows})


def report(first_step_s: float, step_s: list[float], trained: list[float], losses: list[float], **more: float) -> None:
    """Print what a contestant did, as its last line.

    Args:
        first_step_s: seconds from the start of the process to the end of its first step.
        trained: tokens with a loss in each step.
    """
    speeds = [count / seconds for count, seconds in zip(trained[WARM:], step_s[WARM:], strict=True)]
    print(json.dumps({"tokens_per_s": statistics.median(speeds), "first_step_s": first_step_s, "losses": losses, **more}))
