"""Takes documents, leaves full rows of tokens: documents end to end, each closed by the end token, cut every `length`."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from raylm.core.config import Config
from raylm.core.errors import DataError
from raylm.tokenize.forms.rows import Made

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

_BATCH = 256


class Text(Config):
    """Packed rows for pretraining; a document's tail goes on in the next row, nothing is padded."""

    kind: Literal["text"] = "text"
    length: int = Field(default=256, ge=2)
    """Tokens per row; the model learns length - 1 of them from those before."""

    def makes(self) -> str:
        """Tokens."""
        return "Tokens"

    def check(self, tokenizer: Any) -> None:
        """Raises DataError when the tokenizer cannot say where a document ends."""
        if tokenizer.eos_token_id is None:
            raise DataError("this tokenizer has no end token (eos), which closes each document", where=tokenizer.name_or_path)

    def rows(self, tokenizer: Any, documents: pa.Table) -> Made:
        """Columns: tokens int32[length], starts (positions at which a document begins in the row).

        Sums: tokens, bytes (UTF-8 bytes of the text in full rows), lost_tokens (in the last, partial row).
        """
        import numpy as np
        import pyarrow as pa

        texts = documents["text"].to_pylist()
        backend = tokenizer.backend_tokenizer
        # a text that spells `<|end|>` is a text about it, and not an end
        backend.encode_special_tokens = True
        parts, ends = [], [0]
        for at in range(0, len(texts), _BATCH):
            for encoding in backend.encode_batch_fast(texts[at : at + _BATCH], add_special_tokens=False):
                parts.append(np.array([*encoding.ids, tokenizer.eos_token_id], dtype=np.int32))
                ends.append(ends[-1] + len(parts[-1]))
        flat = np.concatenate(parts) if parts else np.zeros(0, dtype=np.int32)
        num_rows = len(flat) // self.length
        used, bounds = num_rows * self.length, np.array(ends, dtype=np.int64)
        starts = bounds[:-1][bounds[:-1] < used]
        cuts = np.searchsorted(starts, np.arange(num_rows + 1) * self.length)
        table = pa.table(
            {
                "tokens": pa.FixedSizeListArray.from_arrays(pa.array(flat[:used]), self.length),
                "starts": pa.ListArray.from_arrays(pa.array(cuts, pa.int32()), pa.array(starts % self.length, pa.int32())),
            }
        )
        size = _bytes(backend, texts, bounds, used)
        sums = Counter(documents=len(texts), tokens=used, lost_tokens=len(flat) - used, bytes=size)
        return Made(table, Counter(partial_row=int(len(flat) > used)), sums)


def _bytes(backend: Any, texts: list[str], bounds: np.ndarray, used: int) -> int:
    """UTF-8 bytes of the text whose tokens stand before position `used`."""
    import numpy as np

    whole = int(np.searchsorted(bounds, used, side="right")) - 1
    count = sum(len(text.encode()) for text in texts[:whole])
    rest = used - int(bounds[whole])
    if rest > 0:
        # a token that ends within a character counts with that whole character
        end = backend.encode(texts[whole], add_special_tokens=False).offsets[rest - 1][1]
        count += len(texts[whole][:end].encode())
    return count
