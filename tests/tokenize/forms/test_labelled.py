"""Labelled texts: the tokens of transformers' own call, the label's place among the classes; dialogues by the template."""

import json

import pyarrow as pa
import pytest
from pydantic import ValidationError

from raylm.data.records import read_row, schema
from raylm.tokenize.forms.labelled import Labelled
from tests.tokenize.samples import tokenizer, turn


def documents(*rows):
    """As sources read them: a plain text keeps its other columns as metadata."""
    read = [read_row(row, None, "made", at, at + 1) for at, row in enumerate(rows)]
    return pa.Table.from_pylist(read, schema=schema())


def test_texts_and_dialogues_have_their_class(tmp_path):
    coder = tokenizer(tmp_path)
    dialogue = [turn("user", "Text number?"), turn("assistant", "spam")]
    rows = ({"text": "so good", "label": 1}, {"text": "so bad", "label": "bad"}, {"messages": dialogue, "label": "good"})
    made = Labelled(classes=("bad", "good")).rows(coder, documents(*rows))
    assert made.table["label"].to_pylist() == [1, 0, 1]
    expected = [coder("so good")["input_ids"], coder("so bad")["input_ids"]]
    assert made.table["tokens"].to_pylist()[:2] == expected
    assert made.table["tokens"].to_pylist()[2] == coder.apply_chat_template(dialogue, tokenize=True)["input_ids"]
    assert made.sums["class_good"] == 2 and Labelled(classes=("bad", "good")).facts(made.sums, made.sums) == {
        "classes": ["bad", "good"]
    }


def test_numbers_are_kept_where_there_are_no_classes(tmp_path):
    rows = (
        {"text": "so good", "score": 4},
        {"text": "so bad", "score": 0.5},
        {"text": "so so", "score": "high"},
        {"text": "what"},
    )
    made = Labelled(label="score").rows(tokenizer(tmp_path), documents(*rows))
    assert made.table["label"].to_pylist() == [4.0, 0.5] and Labelled().facts(made.sums, made.sums) == {}
    assert dict(made.dropped) == {"wrong_shape: score": 1, "missing_column: score": 1}


def test_what_is_of_no_class_is_counted(tmp_path):
    rows = [{"text": "so good", "label": label} for label in (2, -1, True, "ugly", 1.0)] + [{"text": "good " * 90, "label": 0}]
    made = Labelled(classes=("bad", "good"), length=40).rows(tokenizer(tmp_path), documents(*rows))
    assert made.table.num_rows == 0 and dict(made.dropped) == {"unknown_class": 5, "too_long": 1}
    with pytest.raises(ValidationError, match="at least two names"):
        Labelled(classes=("bad", "bad"))
    assert json.loads(documents(rows[0])["meta"][0].as_py()) == {"label": 2}
