"""Prompts: rendered as transformers does, up to where the assistant begins."""

import json

import pyarrow as pa

from raylm.tokenize.forms.prompts import Prompts
from tests.tokenize.samples import table, tokenizer, turn


def test_rendered_as_transformers_does(tmp_path):
    coder = tokenizer(tmp_path)
    asked = [turn("system", "Short."), turn("user", "Text number?")]
    made = Prompts().rows(coder, table({"prompt": asked, "answer": "7"}, {"prompt": "spam?"})).table.to_pylist()
    assert made[0]["tokens"] == coder.apply_chat_template(asked, tokenize=True, add_generation_prompt=True)["input_ids"]
    assert json.loads(made[0]["messages"]) == asked and made[0]["ground_truth"] == "7"
    assert json.loads(made[1]["messages"]) == [turn("user", "spam?")] and made[1]["ground_truth"] is None


def test_what_does_not_fit_is_counted(tmp_path):
    made = Prompts(length=20).rows(tokenizer(tmp_path), table({"prompt": "spam " * 50}, "no prompt"))
    assert made.table.num_rows == 0 and dict(made.dropped) == {"too_long": 1, "missing_column: messages": 1}


def test_what_else_a_row_has_is_kept_for_rewards(tmp_path):
    rows = [
        {"prompt": "spam?", "answer": "7", "level": 3, "tests": [{"input": "1", "output": "2"}], "none": None},
        {"messages": [turn("user", "spam?"), turn("assistant", "no")], "tools": []},
    ]
    documents = table(*rows)
    made = Prompts().rows(tokenizer(tmp_path), documents).table.to_pylist()
    assert json.loads(made[0]["columns"]) == {"answer": "7", "level": 3, "tests": [{"input": "1", "output": "2"}]}
    assert made[1]["columns"] is None
    # of a row that was mapped, what the mapping did not read stands beside it
    metas = pa.array(['{"level": 4, "task": "x"}', None], pa.large_string())
    mapped = documents.set_column(documents.column_names.index("meta"), "meta", metas)
    first = Prompts().rows(tokenizer(tmp_path), mapped).table.to_pylist()[0]
    assert json.loads(first["columns"]) == json.loads(made[0]["columns"]) | {"task": "x"}
