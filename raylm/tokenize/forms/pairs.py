"""The `pairs` form: preference pairs, a prompt and two answers as tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from raylm.core.errors import DataError
from raylm.data.records import as_pair
from raylm.tokenize.forms.chat import Chat
from raylm.tokenize.forms.form import Form
from raylm.tokenize.forms.rows import FormRows, check_template, each_row, fit

if TYPE_CHECKING:
    import pyarrow as pa


class Pairs(Form):
    """One row per preference, for DPO and reward models."""

    kind: Literal["pairs"] = "pairs"
    length: int = Field(default=1024, ge=2)
    """Longest prompt + answer in tokens; rows with a longer one are dropped and counted as too_long."""

    def makes(self) -> str:
        """Pairs."""
        return "Pairs"

    def check(self, tokenizer: Any) -> None:
        """Raises DataError when the tokenizer has no chat template, or one that ends no answer."""
        check_template(tokenizer, "pairs")
        Chat(tokenizer).check_end()

    def rows(self, tokenizer: Any, documents: pa.Table) -> FormRows:
        """Columns: id, source, prompt, chosen, rejected; prompt + chosen is the rendered dialogue, its end token included."""
        import pyarrow as pa

        chat = Chat(tokenizer)

        def make(row: Any) -> dict[str, Any]:
            question, good, bad = as_pair(row)
            prompt, (chosen, rejected) = chat.answers(question, good, bad)
            if chosen == rejected:
                raise DataError("chosen_is_rejected")
            fit(self.length, prompt + chosen, prompt + rejected)
            return {"prompt": prompt, "chosen": chosen, "rejected": rejected}

        return each_row(documents, make, dict.fromkeys(("prompt", "chosen", "rejected"), pa.list_(pa.int32())))
