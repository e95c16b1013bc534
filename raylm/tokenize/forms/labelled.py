"""The `labelled` form: texts or dialogues with a class or a number each."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator

from raylm.core.errors import DataError
from raylm.data.records import as_dialogue, as_prompt, is_structured, tools_of
from raylm.tokenize.forms.chat import Chat
from raylm.tokenize.forms.form import LEFT_OUT, Form, grouped
from raylm.tokenize.forms.rows import FormRows, Made, each_row, number

if TYPE_CHECKING:
    import pyarrow as pa


class Labelled(Form):
    """One row per labelled text, for sequence classification and pointwise reward models.

    A plain text has the tokens that transformers' own pipeline gives it, special ones included; a dialogue is rendered by the
    chat template.
    """

    kind: Literal["labelled"] = "labelled"
    length: int = Field(default=1024, ge=2)
    """Longest text in tokens; longer ones are dropped and counted as too_long."""
    label: str = "label"
    """Column with the label."""
    classes: tuple[str, ...] = ()
    """Names of the classes, in the order in which the model will give them. A row's label is a name, or a number from 0; other
    rows are dropped and counted as unknown_class. Without classes a label is a number to be learned."""

    @field_validator("classes")
    @classmethod
    def _are_classes(cls, classes: tuple[str, ...]) -> tuple[str, ...]:
        if len(classes) == 1 or len(set(classes)) < len(classes):
            raise ValueError("classes are at least two names, each once")
        return classes

    def makes(self) -> str:
        """Labelled."""
        return "Labelled"

    def check(self, tokenizer: Any) -> None:
        """A template is needed by dialogues alone."""

    def facts(self, train: Counter[str], held_out: Counter[str]) -> dict[str, Any]:
        return grouped(train + held_out, LEFT_OUT) | ({"classes": list(self.classes)} if self.classes else {})

    def rows(self, tokenizer: Any, documents: pa.Table) -> FormRows:
        """Columns: id, source, tokens, label (the place in `classes`, int32; or a number, float32)."""
        import pyarrow as pa

        chat, sums = Chat(tokenizer) if tokenizer.chat_template else None, Counter[str]()

        def make(row: Any) -> list[Made]:
            label = self._label(row)
            if not is_structured(row):
                tokens = tokenizer(row["text"])["input_ids"]
            elif chat is None:
                raise DataError("no_chat_template")
            else:
                answered = any(row.get(key) is not None for key in ("messages", "conversations", "completion", "output"))
                tools = tools_of(row)
                tokens, _ = chat.dialogue(as_dialogue(row) if answered else as_prompt(row)[0], tools)
                sums.update(f"{LEFT_OUT}: {what}" for what in chat.left_out(tools))
            if len(tokens) < 2:
                raise DataError("empty")
            if len(tokens) > self.length:
                raise DataError("too_long")
            return [Made({"tokens": tokens, "label": label})]

        result = each_row(
            documents,
            make,
            {"tokens": pa.list_(pa.int32()), "label": pa.int32() if self.classes else pa.float32()},
            with_meta=True,
        )
        result.sums.update(sums)
        if self.classes:
            result.sums.update(f"class_{self.classes[label]}" for label in result.table["label"].to_pylist())
        return result

    def _label(self, row: Any) -> int | float:
        found = row.get(self.label)
        if found is None:
            raise DataError(f"missing_column: {self.label}")
        if not self.classes:
            return number(row, self.label)
        if isinstance(found, str) and found in self.classes:
            return self.classes.index(found)
        if isinstance(found, int) and not isinstance(found, bool) and 0 <= found < len(self.classes):
            return found
        raise DataError("unknown_class", next="name all classes in form.classes")
