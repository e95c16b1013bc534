"""The `unpaired` form: a prompt, one answer, and a label that says whether the answer is good."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from raylm.core.errors import DataError
from raylm.data.records import as_unpaired
from raylm.tokenize.forms.chat import Chat
from raylm.tokenize.forms.form import Form
from raylm.tokenize.forms.rows import FormRows, check_template, each_row, fit

if TYPE_CHECKING:
    import pyarrow as pa


class Unpaired(Form):
    """One row per judged answer (TRL's unpaired preference: prompt, completion, label), for losses such as KTO's."""

    kind: Literal["unpaired"] = "unpaired"
    length: int = Field(default=1024, ge=2)
    """Longest prompt + completion in tokens; longer ones are dropped and counted as too_long."""

    def makes(self) -> str:
        """Unpaired."""
        return "Unpaired"

    def check(self, tokenizer: Any) -> None:
        """Raises DataError when the tokenizer has no chat template, or one that ends no answer."""
        check_template(tokenizer, "unpaired rows")
        Chat(tokenizer).check_end()

    def rows(self, tokenizer: Any, documents: pa.Table) -> FormRows:
        """Columns: id, source, prompt, completion (its end token included), label (true: a good answer)."""
        import pyarrow as pa

        chat = Chat(tokenizer)

        def make(row: Any) -> dict[str, Any]:
            question, answer, good = as_unpaired(row)
            prompt, (completion,) = chat.answers(question, answer)
            if not completion:
                raise DataError("no_answer")
            fit(self.length, prompt + completion)
            return {"prompt": prompt, "completion": completion, "label": good}

        tokens = pa.list_(pa.int32())
        result = each_row(documents, make, {"prompt": tokens, "completion": tokens, "label": pa.bool_()})
        result.sums["good"] = sum(result.table["label"].to_pylist())
        return result
