"""Artifacts of hand-made rows, as a tokenize stage would write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from raylm.core.artifact import Artifact
from raylm.data.shards import shard_name, write_arrow
from tests.model.tiny import tiny_tokenizer
from tests.stages import context


def make_rows(
    root: Path,
    name: str,
    kind: type[Artifact],
    rows: list[dict[str, Any]],
    held_out: int = 4,
    vocab: int = 300,
    tokenizer: Any = None,
    **facts: Any,
) -> Artifact:
    """The artifact `name` in `root`; the last `held_out` rows are its held-out split. `facts` are added to the usual ones."""
    import pyarrow as pa

    ctx, counts = context(root, name), {}
    cut = len(rows) - held_out
    for split, picked in (("train", rows[:cut]), ("held_out", rows[cut:])):
        if picked:
            shard = shard_name(split, 0, "arrow")
            write_arrow(ctx.out, shard, pa.Table.from_pylist(picked))
            counts[shard] = len(picked)
    (tokenizer or tiny_tokenizer(vocab)).save_pretrained(ctx.out.path("tokenizer"))
    usual = {"vocab_size": vocab, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    return ctx.commit(kind, facts=usual | facts, rows=counts)


def counting_rows(count: int, length: int = 16, vocab: int = 300) -> list[dict[str, Any]]:
    """Rows of tokens that count up: nothing is easier to learn."""
    return [{"tokens": [6 + (3 * row + at) % (vocab - 6) for at in range(length)]} for row in range(count)]
