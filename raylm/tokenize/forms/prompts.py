"""The `prompts` form: prompts rendered up to where the assistant begins, with the ground truth."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from raylm.data.records import as_prompt
from raylm.tokenize.forms.chat import Chat
from raylm.tokenize.forms.form import Form
from raylm.tokenize.forms.rows import FormRows, check_template, each_row, fit

if TYPE_CHECKING:
    import pyarrow as pa


class Prompts(Form):
    """One row per prompt, for reinforcement learning and evaluation."""

    kind: Literal["prompts"] = "prompts"
    length: int = Field(default=512, ge=2)
    """Longest prompt in tokens; longer ones are dropped and counted as too_long."""

    def makes(self) -> str:
        """Prompts."""
        return "Prompts"

    def check(self, tokenizer: Any) -> None:
        """Raises DataError when the tokenizer has no chat template."""
        check_template(tokenizer, "prompts")

    def rows(self, tokenizer: Any, documents: pa.Table) -> FormRows:
        """Columns: id, source, tokens, messages (JSON), ground_truth (for rewards; null where the row has none)."""
        import pyarrow as pa

        chat = Chat(tokenizer)

        def make(row: Any) -> dict[str, Any]:
            turns, ground_truth = as_prompt(row)
            tokens = chat.prompt(turns)
            fit(self.length, tokens)
            return {"tokens": tokens, "messages": json.dumps(turns, ensure_ascii=False), "ground_truth": ground_truth}

        columns = {"tokens": pa.list_(pa.int32()), "messages": pa.string(), "ground_truth": pa.string()}
        return each_row(documents, make, columns)
