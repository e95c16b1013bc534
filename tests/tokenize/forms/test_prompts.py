"""Prompts: rendered as transformers does, up to where the assistant begins."""

import json

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
