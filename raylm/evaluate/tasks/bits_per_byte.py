"""The `bits_per_byte` task on held-out token rows, beside gzip and xz."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from raylm.core.config import Config, TokensRef
from raylm.core.errors import DataError
from raylm.data.shards import Rows

if TYPE_CHECKING:
    from raylm.evaluate.lm import LM


class BitsPerByte(Config):
    """Compression of unseen text: comparable over models with different tokenizers, and with compressors."""

    needs: ClassVar[str] = "logprobs"
    better: ClassVar[dict[str, str]] = {"bits_per_byte": "low"}
    text: ClassVar[bool] = True
    """Rows of another tokenizer are encoded anew: their text is what is asked about."""

    kind: Literal["bits_per_byte"] = "bits_per_byte"
    rows: TokensRef
    """Token rows; their held-out split is used."""
    num_rows: int = Field(default=256, gt=0)
    """Rows at most."""

    def grade(self, lm: LM, rows: Rows) -> dict[str, float]:
        """Mean bits per predicted token, divided by the mean bytes per token of these rows."""
        import numpy as np

        anew = len(rows) > 0 and "bytes" in rows[0]
        picked = [rows[index] for index in range(len(rows) if anew else min(self.num_rows, len(rows)))]
        asked = [row["tokens"] for row in picked]
        sums = lm.logprob_sums(asked, [np.ones(len(row)) for row in asked])
        scored = [(row, value) for row, value in zip(picked, sums, strict=True) if math.isfinite(value)]
        predicted = sum(len(row["tokens"]) - 1 for row, _ in scored)
        sizes = [row["bytes"] if anew else len(lm.text(row["tokens"]).encode()) for row, _ in scored]
        bytes_per_token = sum(sizes) / sum(len(row["tokens"]) for row, _ in scored)
        if not bytes_per_token:
            raise DataError("the rows hold no text, only special tokens", where=self.rows)
        return {"bits_per_byte": -sum(value for _, value in scored) / predicted / math.log(2) / bytes_per_token}

    def baselines(self, rows: Rows, tokenizer: str) -> dict[str, dict[str, float]]:
        """What general compressors need for the same text, in one piece."""
        import gzip
        import lzma

        from raylm.model.load import load_tokenizer

        decode = load_tokenizer(tokenizer).decode
        text = "".join(decode(row, skip_special_tokens=True) for row in self._tokens(rows)).encode()
        if not text:
            raise DataError("the rows hold no text, only special tokens", where=self.rows)
        return {
            "gzip -9": {"bits_per_byte": 8 * len(gzip.compress(text, 9, mtime=0)) / len(text)},
            "xz -9": {"bits_per_byte": 8 * len(lzma.compress(text, preset=9)) / len(text)},
        }

    def _tokens(self, rows: Rows) -> list:
        return [rows[index]["tokens"] for index in range(min(self.num_rows, len(rows)))]
