"""The `prompts` form: prompts rendered up to where the assistant begins, with the ground truth."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from raylm.core.errors import DataError
from raylm.data.records import STRUCTURED, as_prompt
from raylm.data.tools import TOOLS, tools_of
from raylm.data.unread_columns import QUESTION, SYSTEM
from raylm.tokenize.forms.chat import Chat
from raylm.tokenize.forms.form import LEFT_OUT, OVERLONG, Form, grouped
from raylm.tokenize.forms.overlong import OverlongPrompt, shortened
from raylm.tokenize.forms.rows import FormRows, Made, check_template, each_row

if TYPE_CHECKING:
    import pyarrow as pa

READ = frozenset((*STRUCTURED, "input", "history", "text", "completion", "rejected", "output", *SYSTEM, *QUESTION, *TOOLS))
"""What of a row its messages say already."""


class Prompts(Form):
    """One row per prompt, for reinforcement learning and evaluation."""

    kind: Literal["prompts"] = "prompts"
    renders_chat: ClassVar[bool] = True
    length: int = Field(default=512, ge=2)
    """Longest prompt in tokens; for longer ones see `overlong`."""
    overlong: OverlongPrompt = "drop"
    """drop: as too_long. truncate_left: the prompt loses its oldest exchanges, then the first words of its question."""

    def makes(self) -> str:
        """Prompts."""
        return "Prompts"

    def facts(self, train: Counter[str], held_out: Counter[str]) -> dict[str, Any]:
        return grouped(train + held_out, LEFT_OUT, OVERLONG)

    def check(self, tokenizer: Any) -> None:
        """Raises DataError when the tokenizer has no chat template."""
        check_template(tokenizer, "prompts")

    def rows(self, tokenizer: Any, documents: pa.Table) -> FormRows:
        """Columns: id, source, tokens, messages (JSON), ground_truth (for rewards; null where the row has none), columns (what
        else the row has, for rewards and environments, as a JSON object; null where that is nothing)."""
        import pyarrow as pa

        chat, sums = Chat(tokenizer), Counter[str]()
        has_meta = "meta" in documents.column_names
        metas = iter(documents["meta"].to_pylist() if has_meta else [None] * len(documents))

        def make(row: Any) -> list[Made]:
            # called once for each document, in their order
            columns = {**json.loads(next(metas) or "{}"), **row}
            columns = {name: value for name, value in columns.items() if name not in READ and value is not None}
            turns, ground_truth = as_prompt(row)
            tools = tools_of(row)
            left_out = chat.left_out(tools)
            tokens = chat.prompt(turns, tools)
            whole = len(tokens)
            if whole > self.length:
                if self.overlong == "drop":
                    raise DataError("too_long")
                turns = shortened(turns, lambda some: chat.size(some, tools, prompt=True), self.length, chat.offsets)
                tokens = chat.prompt(turns, tools)
                sums.update({f"{OVERLONG}: truncate_left rows": 1, f"{OVERLONG}: tokens left out": whole - len(tokens)})
            sums.update(f"{LEFT_OUT}: {what}" for what in left_out)
            messages = json.dumps(turns, ensure_ascii=False)
            made = {"tokens": tokens, "messages": messages, "ground_truth": ground_truth}
            return [Made({**made, "columns": json.dumps(columns, ensure_ascii=False) if columns else None}, whole)]

        columns = {"tokens": pa.list_(pa.int32()), **dict.fromkeys(("messages", "ground_truth", "columns"), pa.string())}
        result = each_row(documents, make, columns)
        result.sums.update(sums)
        return result
