"""Pairs: prompt + answer is the dialogue as transformers renders it."""

from raylm.tokenize.forms.pairs import Pairs
from tests.tokenize.samples import table, tokenizer, turn

ASKED, GOOD, BAD = [turn("user", "Text number?")], [turn("assistant", "spam")], [turn("assistant", "naïve")]


def test_prompt_and_answer_make_the_dialogue(tmp_path):
    coder = tokenizer(tmp_path)
    explicit, implicit = {"prompt": ASKED, "chosen": GOOD, "rejected": BAD}, {"chosen": ASKED + GOOD, "rejected": ASKED + BAD}
    made = Pairs().rows(coder, table(explicit, implicit)).table.to_pylist()
    for row in made:
        for key, turns in (("chosen", GOOD), ("rejected", BAD)):
            assert row["prompt"] + row[key] == coder.apply_chat_template(ASKED + turns, tokenize=True)["input_ids"]
            assert coder.decode(row[key]) == turns[0]["content"] + "<|end|>"


def test_what_does_not_fit_is_counted(tmp_path):
    long = [turn("assistant", "spam " * 90)]
    rows = [
        {"prompt": ASKED, "chosen": GOOD, "rejected": GOOD},
        {"prompt": ASKED, "chosen": GOOD, "rejected": long},
        {"prompt": ASKED, "chosen": GOOD},
    ]
    made = Pairs(length=40).rows(tokenizer(tmp_path), table(*rows))
    assert made.table.num_rows == 0
    assert dict(made.dropped) == {"chosen_is_rejected": 1, "too_long": 1, "missing_column: rejected": 1}


def test_margins_are_kept_where_they_are_asked_for(tmp_path):
    pair = {"prompt": ASKED, "chosen": GOOD, "rejected": BAD}
    rows = [{**pair, "by": 2}, {**pair, "by": "much"}, {**pair, "by": True}, pair]
    made = Pairs(margin="by").rows(tokenizer(tmp_path), table(*rows))
    assert made.table["margin"].to_pylist() == [2.0]
    assert dict(made.dropped) == {"wrong_shape: by": 2, "missing_column: by": 1}
