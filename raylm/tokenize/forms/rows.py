"""Takes documents and a tokenizer, leaves what all forms share: the outcome, and dialogues rendered by the template."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from raylm.core.errors import DataError
from raylm.data.records import Dialogue

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from raylm.tokenize.packing import Layout


class Made(NamedTuple):
    """Rows of one shard and split. `sums` are counts that add up over shards."""

    table: pa.Table
    dropped: Counter[str]
    sums: Counter[str]
    index: pa.Table
    """One line per document that was not dropped, with its places in the rows (`raylm.data.lineage`)."""


def each_row(
    documents: pa.Table, make: Callable[[Mapping[str, Any]], dict[str, Any]], columns: Mapping[str, pa.DataType]
) -> Made:
    """One row per document: id, source, and the `columns` that `make` leaves.

    Where `make` raises DataError the document is dropped and counted under its `what`. Columns of int32 lists are tokens
    and counted as such.
    """
    import numpy as np
    import pyarrow as pa

    from raylm.tokenize.packing import Layout

    rows, dropped, kept = [], Counter[str](), []
    names = ("id", "source", "text", "record")
    for at, (id, source, text, record) in enumerate(zip(*(documents[name].to_pylist() for name in names), strict=True)):
        try:
            rows.append({"id": id, "source": source, **make({"text": text} if record is None else json.loads(record))})
            kept.append(at)
        except DataError as cause:
            dropped[cause.what] += 1
    schema = pa.schema([("id", pa.string()), ("source", pa.string()), *columns.items()])
    tokens = [name for name, kind in columns.items() if kind == pa.list_(pa.int32())]
    sizes = np.array([sum(len(row[name]) for name in tokens) for row in rows], dtype=np.int64)
    every, none = np.arange(len(rows)), np.zeros(len(rows), dtype=np.int64)
    places = index(documents, kept, sizes, Layout(every, none, every, none, sizes, len(rows)))
    sums = Counter(documents=len(documents), tokens=int(sizes.sum()))
    return Made(pa.Table.from_pylist(rows, schema=schema), dropped, sums, places)


def index(documents: pa.Table, kept: list[int], sizes: np.ndarray, layout: Layout) -> pa.Table:
    """The document index of a shard.

    Args:
        kept: positions in `documents` of those that `sizes` (tokens) and `layout` speak of.
    """
    import numpy as np
    import pyarrow as pa

    from raylm.data.lineage import index_schema

    schema = index_schema()
    made = documents.take(pa.array(kept, pa.int64()))
    meta = made["meta"] if "meta" in made.column_names else pa.nulls(len(kept), pa.large_string())
    order = np.lexsort((layout.offset, layout.document))
    bounds = pa.array(np.searchsorted(layout.document[order], np.arange(len(kept) + 1)), pa.int32())
    positions = layout.position + layout.leads()
    places = [
        pa.ListArray.from_arrays(bounds, pa.array(values[order], pa.int32())) for values in (layout.row, positions, layout.size)
    ]
    columns = [*(made[name] for name in ("id", "source", "start", "end")), meta, pa.array(sizes, pa.int32()), *places]
    return pa.table([column.cast(kind) for column, kind in zip(columns, schema.types, strict=True)], schema=schema)


def check_template(tokenizer: Any, form: str) -> None:
    """Raises DataError when the tokenizer has no chat template."""
    if not tokenizer.chat_template:
        raise DataError(
            f"this tokenizer has no chat template, which {form} need",
            where=tokenizer.name_or_path,
            next='take a tokenizer that has one, or train one here: tokenizer = {kind = "bpe"}',
        )


def render(tokenizer: Any, turns: Dialogue, prompt: bool = False) -> list[int]:
    """Token ids of a dialogue; with `prompt` it ends where the assistant begins to speak.

    Raises:
        DataError: the template refuses it, or a turn (its role, too) spells a special token and so could forge another turn.
    """
    return _template(tokenizer, turns, add_generation_prompt=prompt)["input_ids"]


def render_masked(tokenizer: Any, turns: Dialogue) -> tuple[list[int], list[int]]:
    """(token ids, mask): 1 on what the assistant says, the token that ends it included."""
    if "{% generation" in tokenizer.chat_template or "{%- generation" in tokenizer.chat_template:
        made = _template(tokenizer, turns, return_assistant_tokens_mask=True)
        return made["input_ids"], made["assistant_masks"]
    # a template without marks: what an assistant turn adds to the rendered prompt before it
    tokens = render(tokenizer, turns)
    mask = [0] * len(tokens)
    for at, turn in enumerate(turns):
        if turn["role"] == "assistant":
            before, after = render(tokenizer, turns[:at], prompt=True), render(tokenizer, turns[: at + 1])
            if after[: len(before)] != before or tokens[: len(after)] != after:
                raise DataError("template_not_prefix")
            mask[len(before) : len(after)] = [1] * (len(after) - len(before))
    return tokens, mask


def answer(tokenizer: Any, prompt: Dialogue, turns: Dialogue, before: list[int]) -> list[int]:
    """Token ids that `turns` add to the rendered prompt `before`."""
    tokens = render(tokenizer, prompt + turns)
    if tokens[: len(before)] != before:
        raise DataError("template_not_prefix")
    return tokens[len(before) :]


def fit(length: int, *rows: list[int]) -> None:
    """Raises DataError(too_long) when one of the rows is."""
    if any(len(row) > length for row in rows):
        raise DataError("too_long")


def _template(tokenizer: Any, turns: Dialogue, **options: Any) -> Any:
    import jinja2

    # not `all_special_tokens`: a tokenizer may mark turns with tokens that only its tokenizer.json calls special (Llama 3)
    specials = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    if any(special in said for turn in turns for said in turn.values() for special in specials):
        raise DataError("special_token_in_text")
    try:
        return tokenizer.apply_chat_template(turns, tokenize=True, return_dict=True, **options)
    except jinja2.TemplateError as cause:
        raise DataError("template_refuses") from cause
