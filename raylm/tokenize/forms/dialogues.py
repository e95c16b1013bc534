"""The `dialogues` form: rendered dialogues with a loss mask, by default on the assistant's tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from raylm.core.errors import DataError
from raylm.data.messages import Dialogue
from raylm.data.records import as_dialogue, tools_of
from raylm.tokenize.forms.chat import Chat, PerTurn, Row
from raylm.tokenize.forms.form import LEFT_OUT, OVERLONG, grouped
from raylm.tokenize.forms.loss_mask import LossMask
from raylm.tokenize.forms.overlong import Overlong, Part, exchanges_in, shortened, windows
from raylm.tokenize.forms.rows import FormRows, Made, check_template, each_row, index
from raylm.tokenize.forms.template import Tools

if TYPE_CHECKING:
    import pyarrow as pa

_ROWS = "rows_per_dialogue"


class Dialogues(LossMask):
    """One row per dialogue, or several whole ones packed in a row, for supervised fine-tuning."""

    kind: Literal["dialogues"] = "dialogues"
    length: int = Field(default=1024, ge=2)
    """Longest dialogue in tokens, for longer ones see `overlong`. With `packing` also the longest row."""
    packing: Literal["first_fit_decreasing"] | None = None
    """Whole dialogues share a row as they fit; training keeps them apart, unless its `document_mask` is false."""
    overlong: Overlong = "drop"
    """Longer dialogues: dropped (too_long); truncate_left: without their oldest exchanges, then without the first words of the
    question, system turns and tools stay; truncate_right: without their last tokens; split: into several rows."""
    per_turn: PerTurn = "auto"
    """Rows for a template that rewrites earlier turns (Qwen3 strips their thoughts): a row of its own, the dialogue up to there,
    for each turn that is not rendered as when it was generated (auto), for every turn (always), or such a dialogue is dropped."""

    def makes(self) -> str:
        """Dialogues."""
        return "Dialogues"

    def facts(self, train: Counter[str], held_out: Counter[str]) -> dict[str, Any]:
        both = train + held_out
        facts: dict[str, Any] = {"answer_tokens": train["answer_tokens"], **grouped(both, _ROWS, LEFT_OUT, OVERLONG)}
        # that each dialogue is one row is nothing to tell
        if set(facts.get(_ROWS, {})) == {"1"}:
            del facts[_ROWS]
        if both["not_behind_prompt"]:
            facts["not_behind_prompt"] = both["not_behind_prompt"]
        return facts

    def check(self, tokenizer: Any) -> None:
        """Raises DataError when the tokenizer has no chat template, or one that ends no answer or learns no end."""
        check_template(tokenizer, "dialogues")
        Chat(tokenizer).check()

    def rows(self, tokenizer: Any, documents: pa.Table) -> FormRows:
        """Columns: id, source, tokens, mask (1 on what is learned; by default the assistant's, the ends of its turns included).

        Packed: tokens, mask, starts (where each dialogue begins); the index says which they are. Sums then also have
        pieces, cut_documents, cut_tokens (both 0) and pad_tokens.
        """
        import pyarrow as pa

        chat, sums = Chat(tokenizer), Counter[str]()

        def make(row: Mapping[str, Any]) -> list[Made]:
            counts = Counter[str]()
            parts = self._parts(chat, self.weighed(row, _whole(row, as_dialogue(row))), tools_of(row), counts)
            counts[f"{_ROWS}: {len(parts)}"] = 1
            sums.update(counts)
            return [Made({"tokens": part.tokens, "mask": part.mask}, part.whole) for part in parts]

        result = each_row(documents, make, {"tokens": pa.list_(pa.int32()), "mask": pa.list_(pa.uint8())})
        result.sums.update(sums)
        result.sums["answer_tokens"] = sum(map(sum, result.table["mask"].to_pylist()))
        return result if self.packing is None else self._packed(result)

    def _parts(self, chat: Chat, turns: Dialogue, tools: Tools, counts: Counter[str]) -> list[Part]:
        """The rows of a dialogue, none longer than `length`; what was done to it is counted."""
        counts.update(f"{LEFT_OUT}: {what}" for what in chat.left_out(tools))
        rows = chat.rows(turns, tools, self, self.per_turn)
        if not any(any(row.mask) for row in rows):
            raise DataError("no_answer")
        if self.overlong == "split" and any(len(row.tokens) > self.length for row in rows):
            counts[f"{OVERLONG}: split_dialogues"] = 1
            learned = self.learned(turns)
            turns = [turn if at in learned else {**turn, "weight": 0} for at, turn in enumerate(turns)]
            split = exchanges_in(turns, lambda some: chat.size(some, tools), self.length)
            rows = [row for part in split if self.learned(part) for row in chat.rows(part, tools, self, self.per_turn)]
        parts, reasons = [], Counter[str]()
        for row in rows:
            counts[f"{LEFT_OUT}: reasoning of earlier turns"] += row.left_out
            counts["not_behind_prompt"] += not row.behind_prompt
            try:
                parts += self._fitted(chat, row, tools, counts)
            except DataError as cause:
                reasons[cause.what] += 1
        if not parts:
            raise DataError(next(iter(reasons), "no_answer"))
        # of a dialogue that other rows are left of: no document is dropped
        counts.update({f"{OVERLONG}: rows {reason}": count for reason, count in reasons.items()})
        return parts

    def _fitted(self, chat: Chat, row: Row, tools: Tools, counts: Counter[str]) -> list[Part]:
        """The row, truncated or split where it is too long. Raises DataError where nothing learned is left of it."""
        if not any(row.mask):
            raise DataError("no_answer")
        whole = len(row.tokens)
        if whole <= self.length:
            return [Part(row.tokens, row.mask, whole)]
        if self.overlong == "drop":
            raise DataError("too_long")
        if self.overlong == "split":
            return windows(row.tokens, row.mask, self.length)
        if self.overlong == "truncate_left":
            tokens, mask = chat.dialogue(
                shortened(row.turns, lambda some: chat.size(some, tools), self.length, chat.offsets), tools, self
            )
        else:
            tokens, mask = row.tokens[: self.length], row.mask[: self.length]
        if not any(mask):
            raise DataError("no_answer_left")
        counts.update({f"{OVERLONG}: {self.overlong} rows": 1, f"{OVERLONG}: tokens left out": whole - len(tokens)})
        counts[f"{OVERLONG}: learned tokens left out"] += max(sum(row.mask) - sum(mask), 0)
        return [Part(tokens, mask, whole)]

    def _packed(self, result: FormRows) -> FormRows:
        import numpy as np
        import pyarrow as pa

        from raylm.tokenize import packing

        table = result.table.combine_chunks()
        lengths = pa.array(result.index["lengths"].combine_chunks())
        documents = np.array(lengths.value_parent_indices(), dtype=np.int64)
        order = np.argsort(np.array(result.index["rows"].combine_chunks().flatten()), kind="stable")
        sizes, documents = np.array(lengths.flatten(), dtype=np.int64)[order], documents[order]
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
        # the rows of a document follow each other
        offsets = begins - begins[np.searchsorted(documents, documents)]
        named = layout._replace(document=documents[layout.document], offset=offsets[layout.document])
        wholes = np.array(result.index["num_tokens"], dtype=np.int64)
        places = index(result.index, list(range(len(wholes))), wholes, named)
        return result._replace(table=pa.table(columns), index=places)


def _whole(row: Mapping[str, Any], turns: Dialogue) -> Dialogue:
    """The turns. Raises DataError where the row has their answer in a column of its own, beside messages that wait for it."""
    beside = row.get("messages") is not None or row.get("conversations") is not None
    answer = next((column for column in ("completion", "chosen") if row.get(column) is not None), None)
    if beside and answer and turns[-1]["role"] != "assistant":
        raise DataError(f"unread_key: {answer}", next=f"write {answer} into the messages, or call these the prompt")
    return turns


def _flat(table: pa.Table, name: str) -> Any:
    import pyarrow as pa

    chunks = table[name].chunks
    return chunks[0].flatten().to_numpy() if chunks else pa.array([], table.schema.field(name).type.value_type).to_numpy()
