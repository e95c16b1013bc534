"""The `perplexity` task: how surprised a model is by held-out documents, source by source."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from pydantic import Field

from raylm.core.config import Config, TokensRef
from raylm.core.errors import DataError
from raylm.evaluate.instances import Graded, asked_id, means

if TYPE_CHECKING:
    from raylm.evaluate.lm import LM


class _Piece(NamedTuple):
    """The text of one document in one row."""

    text: str
    facts: dict[str, str]


class Perplexity(Config):
    """Documents are asked one by one, as text: rows of any tokenizer do, and a document longer than the model in windows (as
    lm-eval's loglikelihood_rolling). Perplexity is for tokens of the model's own tokenizer; bits per byte compare models of
    different ones."""

    needs: ClassVar[str] = "logprobs"
    any_tokenizer: ClassVar[bool] = True
    better: ClassVar[dict[str, str]] = {"perplexity": "low", "document_bits_per_byte": "low"}

    kind: Literal["perplexity"] = "perplexity"
    rows: TokensRef
    """Token rows; the documents of their held-out split are asked."""
    num_rows: int = Field(default=256, gt=0)
    """Rows at most."""
    by: list[str] = []
    """What documents are sliced by beside their source: keys of their metadata (`language`, `domain`)."""

    def grade(self, lm: LM, rows: Any) -> list[Graded]:
        """One instance for each document in each row. Raises DataError where the rows hold no text."""
        pieces = self._pieces(rows)
        if not pieces:
            raise DataError("the rows hold no text, only special tokens", where=self.rows)
        tokenizer = lm.tokenizer
        tokens = [tokenizer.encode(piece.text, add_special_tokens=False) for piece in pieces]
        # of a text that is not given back whole (unknown characters) the bits would be those of another one
        given = [tokenizer.decode(each, clean_up_tokenization_spaces=False).strip() for each in tokens]
        whole = [text == piece.text.strip() for text, piece in zip(given, pieces, strict=True)]
        lm.leave_out(["" if each else "that the model's tokenizer does not give back whole" for each in whole])
        asked = [(piece, len(each)) for piece, each, kept in zip(pieces, tokens, whole, strict=True) if kept]
        nats = lm.loglikelihood_rolling([piece.text for piece, _ in asked])
        graded = [
            Graded(
                asked_id(piece.text),
                {"perplexity": -value, "document_bits_per_byte": -value / math.log(2)},
                {"perplexity": float(count), "document_bits_per_byte": float(len(piece.text.encode()))},
                piece.facts,
                piece.text,
                "",
                count,
                seconds,
            )
            for (piece, count), value, seconds in zip(asked, nats, lm.seconds, strict=True)
            if math.isfinite(value)
        ]
        lm.enough(graded, len(pieces))
        return graded

    def summary(self, graded: list[Graded]) -> dict[str, float]:
        """Bits per byte, and the exponential of the mean nats per token."""
        found = means(graded)
        return {**found, "perplexity": math.exp(min(found["perplexity"], 700.0))}

    def _pieces(self, rows: Any) -> list[_Piece]:
        from raylm.core.artifact import open_artifact
        from raylm.core.storage import Folder
        from raylm.data.lineage import documents_in
        from raylm.model.load import load_tokenizer

        tokenizer = load_tokenizer(Folder(rows.uri).path("tokenizer"))
        numbers = range(min(self.num_rows, len(rows)))
        indexed = bool(open_artifact(Folder(rows.uri)).shards("index-"))
        documents = documents_in(rows.uri, "held_out", numbers) if indexed else {}
        found = []
        for number in numbers:
            row = rows[number]
            whole = [{"id": row.get("id"), "source": row.get("source"), "position": 0, "length": len(row["tokens"])}]
            for part in documents.get(number, whole):
                tokens = row["tokens"][part["position"] : part["position"] + part["length"]]
                # a piece may begin or end within a character
                text = tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False).strip("\ufffd")
                if text.strip():
                    found.append(_Piece(text, self._facts(part)))
        return found

    def _facts(self, document: dict[str, Any]) -> dict[str, str]:
        meta = json.loads(document.get("meta") or "{}")
        found = {"source": document.get("source"), "cluster": document.get("id")}
        found |= {key: meta.get(key) for key in self.by}
        return {key: str(value) for key, value in found.items() if value is not None}
