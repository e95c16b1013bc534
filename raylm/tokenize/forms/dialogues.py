"""The `dialogues` form: rendered dialogues with a loss mask on the assistant's tokens."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from raylm.core.errors import DataError
from raylm.data.records import as_dialogue
from raylm.tokenize.forms.chat import Chat
from raylm.tokenize.forms.form import Form
from raylm.tokenize.forms.rows import FormRows, check_template, each_row, fit, index

if TYPE_CHECKING:
    import pyarrow as pa


class Dialogues(Form):
    """One row per dialogue, or several whole ones packed in a row, for supervised fine-tuning."""

    kind: Literal["dialogues"] = "dialogues"
    length: int = Field(default=1024, ge=2)
    """Longest dialogue in tokens; longer ones are dropped and counted as too_long. With `packing` also the longest row."""
    packing: Literal["first_fit_decreasing"] | None = None
    """Whole dialogues share a row as they fit. Train on such rows with `document_mask = true`."""

    def makes(self) -> str:
        """Dialogues."""
        return "Dialogues"

    def facts(self, train: Counter[str], held_out: Counter[str]) -> dict[str, Any]:
        return {"answer_tokens": train["answer_tokens"]}

    def check(self, tokenizer: Any) -> None:
        """Raises DataError when the tokenizer has no chat template, or one that ends no answer."""
        check_template(tokenizer, "dialogues")
        Chat(tokenizer).check_end()

    def rows(self, tokenizer: Any, documents: pa.Table) -> FormRows:
        """Columns: id, source, tokens, mask (1 on the assistant's tokens, those that end its turns included).

        Packed: tokens, mask, starts (where each dialogue begins); the index says which they are. Sums then also have
        pieces, cut_documents, cut_tokens (both 0) and pad_tokens.
        """
        import pyarrow as pa

        chat = Chat(tokenizer)

        def make(row: Any) -> dict[str, Any]:
            tokens, mask = chat.dialogue(as_dialogue(row))
            if not any(mask):
                raise DataError("no_answer")
            fit(self.length, tokens)
            return {"tokens": tokens, "mask": mask}

        result = each_row(documents, make, {"tokens": pa.list_(pa.int32()), "mask": pa.list_(pa.uint8())})
        result.sums["answer_tokens"] = sum(map(sum, result.table["mask"].to_pylist()))
        return result if self.packing is None else self._packed(result)

    def _packed(self, result: FormRows) -> FormRows:
        import numpy as np
        import pyarrow as pa

        from raylm.tokenize import packing

        table = result.table.combine_chunks()
        sizes = np.array(result.index["num_tokens"], dtype=np.int64)
        layout = packing.first_fit_decreasing(sizes, self.length)
        begins = np.cumsum(sizes) - sizes
        bounds = pa.array(np.append(0, np.cumsum(layout.row_sizes())), pa.int32())
        columns = {
            name: pa.ListArray.from_arrays(bounds, pa.array(packing.gather(_flat(table, name), begins, layout)))
            for name in ("tokens", "mask")
        }
        starts, cuts = packing.row_starts(layout)
        columns["starts"] = pa.ListArray.from_arrays(pa.array(cuts), pa.array(starts))
        result.sums.update(packing.shares(sizes, layout, self.length))
        places = index(result.index, list(range(len(sizes))), sizes, layout)
        return result._replace(table=pa.table(columns), index=places)


def _flat(table: pa.Table, name: str) -> Any:
    import pyarrow as pa

    chunks = table[name].chunks
    return chunks[0].flatten().to_numpy() if chunks else pa.array([], table.schema.field(name).type.value_type).to_numpy()
