"""Takes held-out token rows, leaves how many bits the model needs for a byte of their text, beside gzip and xz."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from raylm.core.config import Config, TokensRef
from raylm.data.shards import Rows

if TYPE_CHECKING:
    from raylm.evaluate.examinee import Examinee


class BitsPerByte(Config):
    """Compression of unseen text: comparable over models with different tokenizers, and with compressors."""

    needs: ClassVar[str] = "logprobs"
    better: ClassVar[dict[str, str]] = {"bits_per_byte": "low"}

    kind: Literal["bits_per_byte"] = "bits_per_byte"
    rows: TokensRef
    """Token rows; their held-out split is used."""
    num_rows: int = Field(default=256, gt=0)
    """Rows at most."""

    def grade(self, examinee: Examinee, rows: Rows) -> dict[str, float]:
        """Mean bits per predicted token, divided by the mean bytes per token of these rows."""
        import numpy as np

        tokens = self._tokens(rows)
        sums = examinee.logprob_sums(tokens, [np.ones(len(row)) for row in tokens])
        predicted = sum(len(row) - 1 for row in tokens)
        bytes_per_token = sum(len(examinee.text(row).encode()) for row in tokens) / sum(len(row) for row in tokens)
        return {"bits_per_byte": -sum(sums) / predicted / math.log(2) / bytes_per_token}

    def baselines(self, rows: Rows, tokenizer: str) -> dict[str, dict[str, float]]:
        """What general compressors need for the same text, in one piece."""
        import gzip
        import lzma

        from raylm.model.load import load_tokenizer

        decode = load_tokenizer(tokenizer).decode
        text = "".join(decode(row, skip_special_tokens=True) for row in self._tokens(rows)).encode()
        return {
            "gzip -9": {"bits_per_byte": 8 * len(gzip.compress(text, 9, mtime=0)) / len(text)},
            "xz -9": {"bits_per_byte": 8 * len(lzma.compress(text, preset=9)) / len(text)},
        }

    def _tokens(self, rows: Rows) -> list:
        return [rows[index]["tokens"] for index in range(min(self.num_rows, len(rows)))]
