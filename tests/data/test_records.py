"""TRL's dataset shapes, each to a dialogue, a pair or a prompt; what is missing is named."""

import pytest

from raylm.core.errors import DataError
from raylm.data.records import as_dialogue, as_pair, as_prompt, as_text, document, is_held_out

USER, GOOD, BAD = ({"role": role, "content": text} for role, text in (("user", "q"), ("assistant", "yes"), ("assistant", "no")))


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [USER, GOOD]},
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "yes"}]},
        {"instruction": "q", "input": "", "output": "yes"},
        {"prompt": "q", "completion": "yes"},
        {"prompt": [USER], "completion": [GOOD]},
        {"prompt": "q", "chosen": "yes", "rejected": "no"},
        {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]},
        {"chosen": [USER, GOOD], "rejected": [USER, BAD]},
        # Parquet gives every row all columns, null where it has none
        {"messages": None, "prompt": "q", "completion": "yes"},
    ],
)
def test_dialogues(row):
    assert as_dialogue(row) == [USER, GOOD]
    assert as_text(row) == "q\n\nyes"


def test_alpaca_input_stands_below_the_instruction():
    assert as_dialogue({"instruction": "a", "input": "b", "output": "c"})[0]["content"] == "a\n\nb"


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "q", "chosen": "yes", "rejected": "no"},
        {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]},
        {"chosen": [USER, GOOD], "rejected": [USER, BAD]},
    ],
)
def test_pairs(row):
    assert as_pair(row) == ([USER], [GOOD], [BAD])


def test_implicit_prompt_of_equal_answers_leaves_the_answers():
    assert as_pair({"chosen": [USER, GOOD], "rejected": [USER, GOOD]}) == ([USER], [GOOD], [GOOD])


@pytest.mark.parametrize(
    ("row", "truth"),
    [
        ({"prompt": "q", "answer": "x"}, "x"),
        ({"prompt": [USER], "solution": 3}, "3"),
        ({"messages": [USER, GOOD]}, None),
        ({"prompt": "q", "ground_truth": ["a", "b"]}, '["a", "b"]'),
    ],
)
def test_prompts(row, truth):
    assert as_prompt(row) == ([USER], truth)


@pytest.mark.parametrize(
    ("function", "row", "what"),
    [
        (as_dialogue, {"text": "x"}, "missing_column: messages"),
        (as_pair, {"prompt": "q", "chosen": "x"}, "missing_column: rejected"),
        (as_pair, {"chosen": [GOOD], "rejected": [BAD]}, "missing_column: prompt"),
        (as_prompt, {"body": "x"}, "missing_column: messages"),
        (as_dialogue, {"messages": [{"role": "user"}]}, "wrong_shape: messages"),
        (as_dialogue, {"messages": "hi"}, "wrong_shape: messages"),
        (as_dialogue, {"messages": []}, "wrong_shape: messages"),
    ],
)
def test_what_is_missing_is_named(function, row, what):
    with pytest.raises(DataError) as caught:
        function(row)
    assert caught.value.what == what


def test_ids_are_stable_and_the_split_follows_the_stem():
    assert document("a.txt", 0, 5, "x")["id"] == document("a.txt", 0, 5, "y")["id"] != document("a.txt", 1, 5, "x")["id"]
    ids = [document("a.txt", at, at + 1, "")["id"] for at in range(4000)]
    held = [id for id in ids if is_held_out(id, 0.1)]
    assert 320 < len(held) < 480 and not any(is_held_out(id, 0.0) for id in ids)
    assert all(is_held_out(f"{id}-1", 0.1) for id in held) and set(held) <= {id for id in ids if is_held_out(id, 0.2)}
