"""Unit vectors in 16-bit floats, from texts and an encoder, or from a column of vectors."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from raylm.core.errors import DataError
from raylm.prepare.score.weights import batches, check_length, device, head

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

_SLICE = 4096


def embedded(texts: list[str], model: str, max_tokens: int, batch_tokens: int, dtype: str) -> np.ndarray:
    """float16[N, D]: the mean of the last hidden states over a text's tokens, scaled to length 1; a text of no tokens
    is all zeros. On a GPU where the worker has one; the model is loaded once in a process.

    Raises:
        ArtifactError: no such model.
    """
    import numpy as np
    import torch

    tokenizer, encoder = _loaded(model, dtype, device())
    check_length(max_tokens, encoder.config, model)
    vectors = np.zeros((len(texts), encoder.config.hidden_size), dtype=np.float16)
    with torch.inference_mode():
        # a shard's token ids, as Python has them, would be many times its text
        for first in range(0, len(texts), _SLICE):
            part = [head(text, max_tokens) for text in texts[first : first + _SLICE]]
            ids = tokenizer(part, truncation=True, max_length=max_tokens)["input_ids"]
            for rows in batches([len(row) for row in ids], batch_tokens):
                vectors[first + np.array(rows)] = unit(_means(encoder, [ids[row] for row in rows]))
    return vectors


def _means(encoder: Any, ids: list[list[int]]) -> np.ndarray:
    """float32[B, D]: means over the tokens of each text."""
    import torch

    # which id pads does not matter under the mask; not every tokenizer has one
    padded = torch.zeros((len(ids), max(1, *map(len, ids))), dtype=torch.int64)
    mask = torch.zeros_like(padded)
    for at, row in enumerate(ids):
        padded[at, : len(row)] = torch.tensor(row, dtype=torch.int64)
        mask[at, : len(row)] = 1
    mask = mask.to(encoder.device)
    states = encoder(input_ids=padded.to(encoder.device), attention_mask=mask).last_hidden_state.float()
    # of a text without tokens the states may be anything, NaN too
    summed = torch.where(mask[..., None] > 0, states, 0.0).sum(1)
    return (summed / mask.sum(1, keepdim=True).clamp(min=1)).cpu().numpy()


def taken(column: pa.ChunkedArray, name: str) -> np.ndarray:
    """float16[N, D] of a column of fixed-size lists of floats, scaled to length 1; a missing vector is all zeros.

    Raises:
        DataError: the column holds something else.
    """
    import numpy as np
    import pyarrow as pa

    if not pa.types.is_fixed_size_list(column.type) or not pa.types.is_floating(column.type.value_type):
        raise DataError(f"the column {name!r} holds {column.type}", next="a vector is a fixed-size list of floats")
    vectors = np.zeros((len(column), column.type.list_size), dtype=np.float32)
    there = ~column.is_null().to_numpy()
    flat = column.drop_null().combine_chunks().flatten()
    vectors[there] = flat.to_numpy(zero_copy_only=False).astype(np.float32).reshape(-1, column.type.list_size)
    if not np.isfinite(vectors).all():
        raise DataError(f"the column {name!r} holds numbers that are not finite")
    return unit(vectors)


def unit(vectors: np.ndarray) -> np.ndarray:
    """float16[N, D]: each row scaled to length 1; rows of zeros stay zeros."""
    import numpy as np

    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float16)


@lru_cache(maxsize=2)
def _loaded(path: str, dtype: str, device: str) -> tuple[Any, Any]:
    from transformers import AutoModel

    from raylm.model.load import load_as, load_tokenizer

    # only hidden states are needed: output layers of any kind may be left over, and a pooler be missing
    heads = r"^(lm_head|cls|predictions|score|classifier|qa_outputs|vocab_\w+|mlm_\w+)\."
    model = load_as(AutoModel, path, dtype, unread=heads, absent=r"(^|\.)pooler\.")
    return load_tokenizer(path), model.to(device).eval()
