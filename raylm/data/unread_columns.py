"""Refuses structured rows with a column that is not read although it changes what a model should learn.

An unread column is harmless metadata (id, source, url, score) unless its name is one under which data sets keep what belongs in
the rendered dialogue or in the loss, it is not empty, and the turns do not contain the same text already.
"""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from typing import Any

from raylm.core.errors import DataError
from raylm.data.messages import Dialogue, readable

SYSTEM = ("system", "system_prompt", "system_message")
QUESTION = ("question", "query")
# names of columns with the question, or with context of it
_QUESTION_COLUMNS = (
    *SYSTEM, *QUESTION, "prompt", "instruction", "instructions", "input", "history", "context", "contexts", "document",
    "documents", "passage", "passages", "background", "knowledge", "persona", "personas",
)  # fmt: skip
_THOUGHT = (
    "thinking", "thought", "thoughts", "reasoning", "reasoning_content", "reasoning_trace", "cot", "chain_of_thought",
    "rationale", "rationales", "scratchpad",
)  # fmt: skip
_TEMPLATE = ("chat_template", "chat_template_kwargs", "template_kwargs", "enable_thinking", "response_format")
_LOSS = (
    "weight", "weights", "loss_weight", "sample_weight", "train", "training", "trainable", "loss", "mask", "loss_mask",
    "input_ids", "labels", "completion_mask", "prompt_mask", "assistant_mask", "assistant_masks",
)  # fmt: skip
# values of an empty column, also as JSON
EMPTY = (None, "", "[]", "{}", "null", [], {})
_UNREAD = frozenset((*_QUESTION_COLUMNS, *_THOUGHT, *_TEMPLATE, *_LOSS))
_WEIGHED = frozenset(_LOSS)
_FAMILIES = re.compile(
    r"((available_)?(tool|function)s?(_(call|choice|definition|schema|spec|list|json)s?)?|apis"
    r"|(image|img|picture|photo|video|audio)s?(_?(url|path|file|byte|data|base64|list|token)s?)?_?\d*|pixel_values|attachments)"
)
# names of metadata: beside these alone, the prompt may be the common beginning of two answers
_ABOUT = re.compile(
    r"(.*_)?(id|idx|index|uuid|hash|source|origin|dataset|url|uri|link|path|file|filename|lang|language|license|licence|split"
    r"|subset|category|domain|topic|task_type|type|tag|tags|label|model|generator|annotator|author|user_name|date|time"
    r"|timestamp|created_at|version|difficulty|quality|score|rating|reward|margin|meta|metadata)s?"
    r"|(score|rating|reward|model|source)_(chosen|rejected)|(chosen|rejected)_\w+|\w+_(chosen|rejected)"
)


def check_columns(row: Mapping[str, Any], read: Container[str], turns: Dialogue) -> None:
    """Raise DataError(unread_key: column) when a column not in `read` has content that `turns` lack."""
    for column, value in row.items():
        if column in read or value in EMPTY:
            continue
        name = str(column).strip().lower().replace("-", "_").replace(" ", "_")
        if name not in _UNREAD and not _FAMILIES.fullmatch(name):
            continue
        if (isinstance(value, str) and _says(turns, value)) or (name in _WEIGHED and (value is True or value == 1)):
            continue
        raise DataError(f"unread_key: {column}", next=f"render {column} into the messages, or leave the column out")


def possible_question(row: Mapping[str, Any], but: Container[str]) -> str | None:
    """A column, none of `but`, whose text may be the question that the row's answers are about."""
    for column, value in row.items():
        if column not in but and isinstance(value, (str, list, tuple, Mapping)) and value:
            name = str(column).strip().lower().replace("-", "_").replace(" ", "_")
            if not _ABOUT.fullmatch(name) and not (isinstance(value, str) and value.isspace()):
                return str(column)
    return None


def _says(turns: Dialogue, text: str) -> bool:
    sought = text.strip()
    return any(sought in readable(turn) for turn in turns)
