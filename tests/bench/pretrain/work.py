"""Takes nothing, leaves the work that every contestant of `pretrain_speed` does: a shape, token rows, their order, the steps."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

SHAPE = {
    "kind": "llama",
    "hidden_size": 256,
    "num_layers": 4,
    "num_heads": 4,
    "intermediate_size": 704,
    "max_length": 256,
    "tie_embeddings": False,
}
VOCAB, LENGTH, BATCH = 4096, 256, 16
STEPS, WARM = 24, 4
LR, BETAS, DECAY, CLIP = 1e-3, (0.9, 0.95), 0.1, 1.0
TOKENS = {"vocab_size": VOCAB, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "length": LENGTH}


def rows(num_rows: int = STEPS * BATCH) -> Any:
    """int64 [num_rows, LENGTH]: runs of a few thousand fixed phrases, so that there is something to learn."""
    import numpy as np

    draw = np.random.default_rng(0)
    phrases = draw.integers(3, VOCAB, (2000, 8))
    return phrases[draw.zipf(1.3, (num_rows, LENGTH // 8)) % 2000].reshape(num_rows, LENGTH).astype(np.int64)


def order(steps: int = STEPS) -> list[list[int]]:
    """Row numbers of each global batch: raylm's order, so that all see the same batches."""
    from raylm.data.order import batch_indices

    return [batch_indices(steps * BATCH, BATCH, step, 0) for step in range(steps)]


def make_tokens(root: Path) -> None:
    """The rows as an artifact of tokenize, in `root/tokens`."""
    import pyarrow as pa

    from raylm.core.artifact import Tokens
    from raylm.data.shards import write_arrow
    from tests.stages import context

    ctx, made = context(root, "tokens"), rows()
    table = pa.table({"tokens": pa.FixedSizeListArray.from_arrays(pa.array(made.astype("int32").reshape(-1)), LENGTH)})
    write_arrow(ctx.out, "train-00000.arrow", table)
    _save_tokenizer(ctx.out.path("tokenizer"))
    ctx.commit(Tokens, facts={**TOKENS, "num_tokens": made.size}, rows={"train-00000.arrow": len(made)})


def tell(step_s: list[float], losses: list[float]) -> None:
    """Print what a contestant did, as its last line: tokens per second of the median step after warm-up."""
    typical = statistics.median(step_s[WARM:])
    print(json.dumps({"tokens_per_s": BATCH * LENGTH / typical, "losses": losses}))


def _save_tokenizer(at: str) -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    vocabulary = {f"t{index}": index for index in range(VOCAB)}
    plain = Tokenizer(models.WordLevel(vocabulary, unk_token="t3"))
    PreTrainedTokenizerFast(tokenizer_object=plain, bos_token="t1", eos_token="t2", pad_token="t0").save_pretrained(at)
