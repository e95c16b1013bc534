"""Takes nothing, leaves small documents and a tokenizer trained on them."""

from pathlib import Path

import pyarrow as pa

from raylm.data.records import as_text, document, schema
from raylm.tokenize.bpe import Bpe
from raylm.tokenize.tokenizers import load

TEXTS = [f"Text number {at}: naïve café, 日本語, {'spam ' * (at % 5)}and tabs\t\n\n  end {at * at}.\n" for at in range(60)]


def table(*rows):
    """Documents of texts, or of structured rows."""
    made = [
        document("made", at, at + 1, row if isinstance(row, str) else as_text(row), None if isinstance(row, str) else row)
        for at, row in enumerate(rows)
    ]
    return pa.Table.from_pylist(made, schema=schema())


def tokenizer(at: Path, **fields):
    """A BPE tokenizer with 320 entries."""
    Bpe(**{"vocab_size": 320, **fields}).train(TEXTS, at)
    return load(at)


def turn(role, content):
    """One message."""
    return {"role": role, "content": content}
