"""Unpaired: prompt + completion is the dialogue as transformers renders it, and the label is kept."""

from raylm.tokenize.forms.unpaired import Unpaired
from tests.tokenize.samples import table, tokenizer, turn

ASKED, SAID = [turn("user", "Text number?")], [turn("assistant", "spam")]


def test_prompt_and_completion_make_the_dialogue(tmp_path):
    coder = tokenizer(tmp_path)
    rows = [
        {"prompt": ASKED, "completion": SAID, "label": True},
        {"prompt": "Text number?", "completion": "spam", "label": False},
    ]
    made = Unpaired().rows(coder, table(*rows))
    for row in made.table.to_pylist():
        assert row["prompt"] + row["completion"] == coder.apply_chat_template(ASKED + SAID, tokenize=True)["input_ids"]
        assert coder.decode(row["completion"]) == "spam<|end|>" and row["source"] == "made"
    assert made.table["label"].to_pylist() == [True, False] and made.sums["good"] == 1
    assert made.index["rows"].to_pylist() == [[0], [1]] and made.index["id"].to_pylist() == made.table["id"].to_pylist()


def test_what_does_not_fit_is_counted(tmp_path):
    rows = [
        {"prompt": ASKED, "completion": [turn("assistant", "spam " * 90)], "label": True},
        {"prompt": ASKED, "completion": SAID},
        {"prompt": ASKED, "completion": SAID, "label": True},
    ]
    made = Unpaired(length=40).rows(tokenizer(tmp_path), table(*rows))
    assert made.table.num_rows == 1 and made.index["rows"].to_pylist() == [[0]]
    assert made.dropped["too_long"] == 1 and sum(made.dropped.values()) == 2


def test_a_pair_gives_a_good_answer_and_a_bad_one(tmp_path):
    pair = {"prompt": ASKED, "chosen": SAID, "rejected": [turn("assistant", "eggs")]}
    coder = tokenizer(tmp_path)
    made = Unpaired().rows(coder, table(pair, {**pair, "rejected": SAID}))
    said = [(coder.decode(row["completion"]), row["label"]) for row in made.table.to_pylist()]
    assert said == [("spam<|end|>", True), ("eggs<|end|>", False)] and dict(made.dropped) == {"chosen_is_rejected": 1}
    assert made.index["rows"].to_pylist() == [[0, 1]]
