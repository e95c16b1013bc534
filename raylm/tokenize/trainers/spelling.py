"""Pre-tokens as symbols of a byte-level vocabulary, and a tokenizer around a model of such symbols."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from raylm.tokenize.trainers.counts import Counted
from raylm.tokenize.trainers.layout import SPECIALS
from raylm.tokenize.trainers.pattern import Pattern, byte_characters

if TYPE_CHECKING:
    import pyarrow as pa

    from raylm.tokenize.trainers.merges import Words


def byte_tokens() -> list[str]:
    """The vocabulary before any merge: the special tokens, and the 256 bytes in the order of their characters."""
    return [*SPECIALS, *sorted(byte_characters())]


def byte_words(counted: Counted, longest: int | None = None) -> Words:
    """Pre-tokens as rows of ids in `byte_tokens`; those of more than `longest` bytes are cut into such parts."""
    import numpy as np

    from raylm.tokenize.trainers.merges import Words

    ids = {token: id for id, token in enumerate(byte_tokens())}
    of_byte = np.array([ids[character] for character in byte_characters()], np.int32)
    data, bounds = buffers(counted.words)
    counts = counted.counts.to_numpy()
    if longest is not None and len(counts):
        parts = -(-np.diff(bounds) // longest)
        # part k of a word begins k * longest bytes after it
        step = np.arange(parts.sum()) - np.repeat(np.cumsum(parts) - parts, parts)
        bounds = np.append(np.repeat(bounds[:-1], parts) + step * longest, bounds[-1])
        counts = np.repeat(counts, parts)
    return Words(of_byte[data], bounds, counts)


def spell(counted: Counted) -> list[str]:
    """Pre-tokens in the characters of a byte-level vocabulary."""
    spelled = byte_characters()
    return ["".join([spelled[byte] for byte in word]) for word in counted.words.to_pylist()]


def buffers(words: pa.Array) -> tuple[Any, Any]:
    """(uint8[B], int64[N+1]) of large_binary[N]: word w is data[bounds[w]:bounds[w+1]]."""
    import numpy as np

    bounds = np.frombuffer(words.buffers()[1], np.int64)[words.offset : words.offset + len(words) + 1]
    content = words.buffers()[2]
    data = np.frombuffer(content, np.uint8) if content is not None and content.size else np.zeros(0, np.uint8)
    return data[bounds[0] : bounds[-1]], bounds - bounds[0]


def byte_level(model: Any, pattern: Pattern) -> Any:
    """A `tokenizers.Tokenizer` that splits text by the pattern and spells it in bytes."""
    from tokenizers import Tokenizer, decoders

    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pattern.pre_tokenizer()
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer
