"""The `text` form: packed rows for pretraining, each document closed by the end token."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from raylm.core.errors import DataError
from raylm.tokenize.forms.form import Form
from raylm.tokenize.forms.rows import FormRows, index

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

# texts per call of the encoder: its result and the texts are in memory together
_BATCH = 4096


class Text(Form):
    """Packed rows for pretraining: documents end to end, with the places where they begin."""

    kind: Literal["text"] = "text"
    length: int = Field(default=256, ge=2)
    """Tokens per row; the model learns length - 1 of them from those before."""
    packing: Literal["crop", "best_fit"] = "crop"
    """crop: a document's tail goes on in the next row. best_fit: whole documents share a row where they fit, few are cut."""
    buffer: int = Field(default=1024, gt=0)
    """best_fit: documents that may wait for a row that they fit."""
    repeat_bos: bool = False
    """best_fit: the rest of a cut document begins with the tokenizer's bos token, as every document then does. Else a document
    begins as the tokenizer's post-processor has it: with bos for Llama and Gemma, with its text for most others."""

    @model_validator(mode="after")
    def _only_best_fit(self) -> Text:
        if self.repeat_bos and self.packing != "best_fit":
            raise ValueError('`repeat_bos` needs packing = "best_fit"')
        return self

    def makes(self) -> str:
        """Tokens."""
        return "Tokens"

    @property
    def remedy(self) -> str:
        return f"lower form.length ({self.length} tokens) or give more text"

    def facts(self, train: Counter[str], held_out: Counter[str]) -> dict[str, Any]:
        both = train + held_out
        return {
            "bytes": train["bytes"],
            "held_out_bytes": held_out["bytes"],
            "encoder": {name: both[f"encoded_by_{name}"] for name in ("gigatoken", "tokenizers") if both[f"encoded_by_{name}"]},
            "lost_tokens": both["lost_tokens"],
            "bytes_per_token": round(both["bytes"] / both["tokens"], 4),
        }

    def check(self, tokenizer: Any) -> None:
        """Raises DataError when the tokenizer cannot say where a document ends, or begins where it must."""
        if tokenizer.eos_token_id is None:
            raise DataError("this tokenizer has no end token (eos), which closes each document", where=tokenizer.name_or_path)
        if self.repeat_bos and tokenizer.bos_token_id is None:
            raise DataError("this tokenizer has no bos token to repeat", where=tokenizer.name_or_path, next="drop repeat_bos")

    def rows(self, tokenizer: Any, documents: pa.Table) -> FormRows:
        """Columns: tokens int32 (`length` of them; one row of best_fit may have fewer, with repeat_bos some one less),
        starts (positions at which a document, or its next part, begins in the row).

        Sums: tokens, bytes (UTF-8 bytes of the text in the rows), lost_tokens (in the last, partial row of crop), pieces,
        cut_documents, cut_tokens, pad_tokens, encoded_by_gigatoken or encoded_by_tokenizers (documents).
        """
        import numpy as np
        import pyarrow as pa

        from raylm.tokenize import packing

        texts = documents["text"].to_pylist()
        bos = tokenizer.bos_token_id if self.repeat_bos else None
        opening = document_opening(tokenizer) or ([] if bos is None else [bos])
        flat, sizes, encoder_name = _documents(tokenizer, texts, opening)
        if self.packing == "crop":
            layout = packing.crop(sizes, self.length)
        else:
            layout = packing.best_fit(sizes, self.length, self.buffer, lead=int(self.repeat_bos))
        tokens = packing.gather(flat, np.cumsum(sizes) - sizes, layout, bos or 0)
        starts, cuts = packing.row_starts(layout)
        bounds = np.append(0, np.cumsum(layout.row_sizes())).astype(np.int32)
        if self.packing == "crop":
            column = pa.FixedSizeListArray.from_arrays(pa.array(tokens), self.length)
        else:
            column = pa.ListArray.from_arrays(pa.array(bounds), pa.array(tokens))
        table = pa.table({"tokens": column, "starts": pa.ListArray.from_arrays(pa.array(cuts), pa.array(starts))})
        lost = len(flat) - int(layout.size.sum())
        counts = {
            "tokens": len(tokens),
            "lost_tokens": lost,
            "bytes": _bytes(tokenizer, texts, sizes, len(flat) - lost, len(opening)),
        }
        counts[f"encoded_by_{encoder_name}"] = len(texts)
        sums = Counter(documents=len(texts), **counts, **packing.shares(sizes, layout, self.length))
        index_table = index(documents, list(range(len(texts))), sizes, layout)
        return FormRows(table, Counter(partial_row=int(lost > 0)), sums, index_table)


def document_opening(tokenizer: Any) -> list[int]:
    """The tokens that the tokenizer's post-processor puts before a text: bos for Llama and Gemma, none for most others."""
    backend = tokenizer.backend_tokenizer
    alone, whole = (backend.encode("a", add_special_tokens=special).ids for special in (False, True))
    at = next((at for at in range(len(whole)) if whole[at : at + len(alone)] == alone), 0)
    return whole[:at]


def _documents(tokenizer: Any, texts: list[str], opening: list[int]) -> tuple[np.ndarray, np.ndarray, str]:
    """(tokens of all documents int32, tokens of each int64, the encoder's name): a document is begun by `opening` and closed by
    the end token."""
    import numpy as np

    from raylm.tokenize.encode import encoder

    # a text that spells `<|end|>` is a text about it, and not an end: the encoder knows no special tokens
    encode, parts, lengths = encoder(tokenizer, texts), [], []
    begun = len(opening)
    for at in range(0, len(texts), _BATCH):
        ids, offsets = encode(texts[at : at + _BATCH])
        sizes = np.diff(offsets) + 1 + begun
        ends = np.cumsum(sizes)
        flat = np.empty(int(ends[-1]), dtype=np.int32)
        flat[ends - 1] = tokenizer.eos_token_id
        for place, token in enumerate(opening):
            flat[ends - sizes + place] = token
        flat[np.arange(len(ids)) + np.repeat(ends - sizes + begun - offsets[:-1], np.diff(offsets))] = ids
        parts.append(flat)
        lengths.append(sizes)
    if not parts:
        return np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.int64), encode.name
    return np.concatenate(parts), np.concatenate(lengths), encode.name


def _bytes(tokenizer: Any, texts: list[str], sizes: np.ndarray, used: int, begun: int) -> int:
    """UTF-8 bytes of the text whose tokens are among the first `used`; `begun` tokens of each document stand before its text."""
    import numpy as np

    bounds = np.append(0, np.cumsum(sizes))
    whole = int(np.searchsorted(bounds, used, side="right")) - 1
    count = sum(len(text.encode()) for text in texts[:whole])
    rest = used - int(bounds[whole]) - begun
    if rest > 0:
        # a token that ends within a character counts with that whole character
        end = tokenizer.backend_tokenizer.encode(texts[whole], add_special_tokens=False).offsets[rest - 1][1]
        count += len(texts[whole][:end].encode())
    return count
