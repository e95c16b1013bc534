"""The `bits_per_byte` task on held-out token rows, beside gzip and xz."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from raylm.core.config import Config, TokensRef
from raylm.core.errors import DataError
from raylm.data.shards import Rows
from raylm.evaluate.instances import Graded, asked_id, source_of

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

    def grade(self, lm: LM, rows: Rows) -> list[Graded]:
        """Bits of each row's predicted tokens; its weight is their number times the mean bytes of a token of these rows."""
        import numpy as np

        anew = len(rows) > 0 and "bytes" in rows[0]
        picked = [rows[index] for index in range(len(rows) if anew else min(self.num_rows, len(rows)))]
        asked = [row["tokens"] for row in picked]
        sums = lm.logprob_sums(asked, [np.ones(len(row)) for row in asked])
        texts = [row["text"] if anew else lm.text(row["tokens"]) for row in picked]
        scored = [each for each in zip(picked, texts, sums, lm.seconds, strict=True) if math.isfinite(each[2])]
        sizes = [row["bytes"] if anew else len(text.encode()) for row, text, *_ in scored]
        # a begin token is none of the text: nothing predicts it, and it has no bytes
        bytes_per_token = sum(sizes) / sum(len(row["tokens"]) - (row["begin"] if anew else 0) for row, *_ in scored)
        if not bytes_per_token:
            raise DataError("the rows hold no text, only special tokens", where=self.rows)
        parts: dict[str, list[Graded]] = {}
        for row, text, nats, seconds in scored:
            predicted = len(row["tokens"]) - 1
            # one row that became several windows is one instance; two rows alike are two
            name = asked_id(text) if anew else f"{asked_id(text)} {len(parts)}"
            values = {"bits_per_byte": -nats / math.log(2)}, {"bits_per_byte": predicted * bytes_per_token}
            parts.setdefault(name, []).append(Graded(name.split()[0], *values, source_of(row), text, "", predicted, seconds))
        return [_together(part) for part in parts.values()]

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


def _together(parts: list[Graded]) -> Graded:
    """The windows of one row."""
    sums = [
        {"bits_per_byte": math.fsum(each["bits_per_byte"] for each in found)}
        for found in zip(*[part[1:3] for part in parts], strict=True)
    ]
    return parts[0]._replace(
        values=sums[0], weights=sums[1], tokens=sum(part.tokens for part in parts), seconds=sum(part.seconds for part in parts)
    )
