"""The `unpaired` form: a prompt, one answer, and a label that says whether the answer is good."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from raylm.core.errors import DataError
from raylm.data.records import as_pair, as_unpaired, tools_of
from raylm.tokenize.forms.chat import Chat
from raylm.tokenize.forms.form import LEFT_OUT, OVERLONG, Form, grouped
from raylm.tokenize.forms.overlong import OverlongPrompt
from raylm.tokenize.forms.rows import FormRows, Made, answered, check_template, each_row

if TYPE_CHECKING:
    import pyarrow as pa


class Unpaired(Form):
    """One row per judged answer (TRL's unpaired preference: prompt, completion, label), for losses such as KTO's. A preference
    pair gives two: its chosen answer is a good one, its rejected answer a bad one."""

    kind: Literal["unpaired"] = "unpaired"
    renders_chat: ClassVar[bool] = True
    length: int = Field(default=1024, ge=2)
    """Longest prompt + completion in tokens; for longer ones see `overlong`."""
    overlong: OverlongPrompt = "drop"
    """drop: as too_long. truncate_left: the prompt loses its oldest exchanges, then the first words of its question."""

    def makes(self) -> str:
        """Unpaired."""
        return "Unpaired"

    def facts(self, train: Counter[str], held_out: Counter[str]) -> dict[str, Any]:
        return grouped(train + held_out, LEFT_OUT, OVERLONG)

    def check(self, tokenizer: Any) -> None:
        """Raises DataError when the tokenizer has no chat template, or one that ends no answer or learns no end."""
        check_template(tokenizer, "unpaired rows")
        Chat(tokenizer).check()

    def rows(self, tokenizer: Any, documents: pa.Table) -> FormRows:
        """Columns: id, source, prompt, completion (its end token included), label (true: a good answer)."""
        import pyarrow as pa

        chat, sums = Chat(tokenizer), Counter[str]()

        def make(row: Any) -> list[Made]:
            if row.get("completion") is None and row.get("chosen") is not None and row.get("rejected") is not None:
                question, *replies = as_pair(row)
                labels = (True, False)
            else:
                question, answer, good = as_unpaired(row)
                replies, labels = [answer], (good,)
            counts = Counter[str]()
            prompt, completions, whole = answered(chat, question, replies, tools_of(row), self, counts)
            if not all(completions):
                raise DataError("no_answer")
            if len(completions) > 1 and completions[0] == completions[1]:
                raise DataError("chosen_is_rejected")
            sums.update(counts)
            asked = whole - sum(map(len, completions))
            return [
                Made({"prompt": prompt, "completion": tokens, "label": label}, asked + len(tokens))
                for tokens, label in zip(completions, labels, strict=True)
            ]

        tokens = pa.list_(pa.int32())
        result = each_row(documents, make, {"prompt": tokens, "completion": tokens, "label": pa.bool_()})
        result.sums.update(sums)
        result.sums["good"] = sum(result.table["label"].to_pylist())
        return result
