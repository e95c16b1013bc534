"""The `pairs` form: preference pairs, a prompt and two answers as tokens."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from raylm.core.errors import DataError
from raylm.data.records import as_pair, tools_of
from raylm.tokenize.forms.chat import Chat
from raylm.tokenize.forms.form import LEFT_OUT, OVERLONG, Form, grouped
from raylm.tokenize.forms.overlong import OverlongPrompt
from raylm.tokenize.forms.rows import FormRows, Made, answered, check_template, each_row, number

if TYPE_CHECKING:
    import pyarrow as pa


class Pairs(Form):
    """One row per preference, for DPO and reward models."""

    kind: Literal["pairs"] = "pairs"
    renders_chat: ClassVar[bool] = True
    length: int = Field(default=1024, ge=2)
    """Longest prompt + answer in tokens; for rows with a longer one see `overlong`."""
    overlong: OverlongPrompt = "drop"
    """drop: as too_long. truncate_left: the prompt loses its oldest exchanges, then the first words of its question."""

    margin: str | None = None
    """Column with a number, by how much the chosen answer is better: reward models learn with it. Rows without one are dropped
    and counted. None keeps none."""

    def makes(self) -> str:
        """Pairs."""
        return "Pairs"

    def facts(self, train: Counter[str], held_out: Counter[str]) -> dict[str, Any]:
        return grouped(train + held_out, LEFT_OUT, OVERLONG)

    def check(self, tokenizer: Any) -> None:
        """Raises DataError when the tokenizer has no chat template, or one that ends no answer or learns no end."""
        check_template(tokenizer, "pairs")
        Chat(tokenizer).check()

    def rows(self, tokenizer: Any, documents: pa.Table) -> FormRows:
        """Columns: id, source, prompt, chosen, rejected, margin where asked for; prompt + chosen is the rendered dialogue, its
        end token included."""
        import pyarrow as pa

        chat, sums = Chat(tokenizer), Counter[str]()

        def make(row: Any) -> list[Made]:
            question, good, bad = as_pair(row)
            counts = Counter[str]()
            prompt, (chosen, rejected), whole = answered(chat, question, [good, bad], tools_of(row), self, counts)
            if chosen == rejected:
                raise DataError("chosen_is_rejected")
            more = {"margin": number(row, self.margin)} if self.margin else {}
            sums.update(counts)
            return [Made({"prompt": prompt, "chosen": chosen, "rejected": rejected, **more}, whole)]

        columns = dict.fromkeys(("prompt", "chosen", "rejected"), pa.list_(pa.int32()))
        result = each_row(documents, make, columns | ({"margin": pa.float32()} if self.margin else {}))
        result.sums.update(sums)
        return result
