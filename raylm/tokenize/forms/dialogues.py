"""Takes documents that hold dialogues, leaves them rendered, with a mask on what the assistant says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from raylm.core.config import Config
from raylm.core.errors import DataError
from raylm.data.records import as_dialogue
from raylm.tokenize.forms.rows import Made, check_template, each_row, fit, render_masked

if TYPE_CHECKING:
    import pyarrow as pa


class Dialogues(Config):
    """One row per dialogue, for supervised fine-tuning."""

    kind: Literal["dialogues"] = "dialogues"
    length: int = Field(default=1024, ge=2)
    """Longest dialogue in tokens; longer ones are dropped and counted as too_long."""

    def makes(self) -> str:
        """Dialogues."""
        return "Dialogues"

    def check(self, tokenizer: Any) -> None:
        """Raises DataError when the tokenizer has no chat template."""
        check_template(tokenizer, "dialogues")

    def rows(self, tokenizer: Any, documents: pa.Table) -> Made:
        """Columns: id, tokens, mask (1 on the assistant's tokens, those that end its turns included)."""
        import pyarrow as pa

        def make(row: Any) -> dict[str, Any]:
            tokens, mask = render_masked(tokenizer, as_dialogue(row))
            if not any(mask):
                raise DataError("no_answer")
            fit(self.length, tokens)
            return {"tokens": tokens, "mask": mask}

        schema = pa.schema([("id", pa.string()), ("tokens", pa.list_(pa.int32())), ("mask", pa.list_(pa.uint8()))])
        made = each_row(documents, make, schema)
        made.sums["tokens"] = sum(map(len, made.table["tokens"].to_pylist()))
        made.sums["answer_tokens"] = sum(map(sum, made.table["mask"].to_pylist()))
        return made
