"""Small documents and a tokenizer trained on them."""

from pathlib import Path

import pyarrow as pa

from raylm.core.artifact import Documents
from raylm.data.records import as_text, document, schema
from raylm.data.shards import shard_name, write_parquet
from raylm.tokenize.tokenizers import load
from raylm.tokenize.trainers.bpe import Bpe
from raylm.tokenize.trainers.counts import count_texts
from tests.stages import context

TEXTS = [f"Text number {at}: naïve café, 日本語, {'spam ' * (at % 5)}and tabs\t\n\n  end {at * at}.\n" for at in range(60)]


def table(*rows):
    """Documents of texts, or of structured rows."""
    made = [
        document("made", at, at + 1, row if isinstance(row, str) else as_text(row), None if isinstance(row, str) else row)
        for at, row in enumerate(rows)
    ]
    return pa.Table.from_pylist(made, schema=schema())


def documents_of(root: Path, name: str, num_shards: int, texts=TEXTS):
    """Documents of these texts, in the stage `name`."""
    ctx, rows = context(root, name), table(*texts)
    for at in range(num_shards):
        picked = [row for row in range(len(rows)) if row * num_shards // max(len(rows), 1) == at]
        write_parquet(ctx.out, shard_name("documents", at, "parquet"), rows.take(pa.array(picked, pa.int64())))
    return ctx.commit(Documents, facts={})


def tokenizer(at: Path, **fields):
    """A BPE tokenizer with 320 entries."""
    card = Bpe(**{"vocab_size": 320, **fields})
    card.train(count_texts(TEXTS, card.pre_tokenization(at)), at)
    return load(at)


def turn(role, content):
    """One message."""
    return {"role": role, "content": content}
