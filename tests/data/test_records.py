"""TRL's dataset shapes, each to a dialogue, a pair or a prompt; what is missing is named."""

import pytest

from raylm.core.errors import DataError
from raylm.data.records import as_dialogue, as_pair, as_prompt, as_text, as_unpaired, document, is_held_out, meta_of, read_row

USER, GOOD, BAD = ({"role": role, "content": text} for role, text in (("user", "q"), ("assistant", "yes"), ("assistant", "no")))


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [USER, GOOD]},
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "yes"}]},
        {"instruction": "q", "input": "", "output": "yes"},
        {"prompt": "q", "completion": "yes"},
        {"prompt": [USER], "completion": [GOOD]},
        {"prompt": "q", "completion": "yes", "label": True},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "q"}]}, GOOD | {"weight": 1, "tool_calls": None}]},
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
        # a plain prompt that the answers repeat
        {"prompt": "q", "chosen": [USER, GOOD], "rejected": [USER, BAD]},
    ],
)
def test_pairs(row):
    assert as_pair(row) == ([USER], [GOOD], [BAD])


def test_implicit_prompt_of_equal_answers_leaves_the_answers():
    assert as_pair({"chosen": [USER, GOOD], "rejected": [USER, GOOD]}) == ([USER], [GOOD], [GOOD])


@pytest.mark.parametrize(
    ("row", "ground_truth"),
    [
        ({"prompt": "q", "answer": "x"}, "x"),
        ({"prompt": "q", "truth": "x"}, "x"),
        ({"prompt": [USER], "solution": 3}, "3"),
        ({"messages": [USER, GOOD]}, None),
        ({"prompt": "q", "ground_truth": ["a", "b"]}, '["a", "b"]'),
    ],
)
def test_prompts(row, ground_truth):
    assert as_prompt(row) == ([USER], ground_truth)


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
        (as_dialogue, {"messages": [USER, GOOD | {"tool_calls": [{"f": 1}]}]}, "invalid_tool_call: name"),
        (as_dialogue, {"messages": [USER | {"reasoning_content": "so"}, GOOD]}, "unread_key: messages.reasoning_content"),
        (as_dialogue, {"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "part_not_text: image"),
        (as_pair, {"chosen": "yes", "rejected": "no"}, "missing_column: prompt"),
        (as_pair, {"chosen": "", "rejected": "no"}, "missing_column: prompt"),
        (as_unpaired, {"prompt": "q", "completion": "yes"}, "missing_column: label"),
        (as_unpaired, {"prompt": "q", "completion": "yes", "label": 1}, "wrong_shape: label"),
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


@pytest.mark.parametrize("row", [{"prompt": "q", "completion": "yes"}, {"prompt": [USER], "completion": [GOOD]}])
@pytest.mark.parametrize("label", [True, False])
def test_unpaired(row, label):
    assert as_unpaired(row | {"label": label}) == ([USER], [GOOD], label)


PREFERENCES = [
    {"prompt": "q", "chosen": "yes", "rejected": "no"},
    {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]},
    {"prompt": "q", "chosen": [USER, GOOD], "rejected": [USER, BAD]},
    {"chosen": [USER, GOOD], "rejected": [USER, BAD]},
    {"chosen": [USER, GOOD, USER, BAD], "rejected": [USER, GOOD, USER, GOOD]},
    {"chosen": [USER, GOOD, USER, GOOD], "rejected": [USER, BAD]},
    {"chosen": [USER, GOOD], "rejected": [USER, GOOD]},
    {"chosen": "The sky is blue.", "rejected": "The sky is green."},
    {"chosen": "The sky is", "rejected": "The sky is green."},
    {"chosen": "abc", "rejected": "abd"},
    {"chosen": "The sky is b", "rejected": "The sky is b c"},
]


def test_preferences_are_parted_where_trl_parts_them():
    from trl.data_utils import is_conversational, maybe_extract_prompt

    def turns(value, role):
        return [{"role": role, "content": value}] if isinstance(value, str) else value

    for row in PREFERENCES:
        theirs = maybe_extract_prompt(dict(row))
        wanted = tuple(turns(theirs[name], role) for name, role in zip(("prompt", "chosen", "rejected"), ROLES, strict=True))
        assert as_pair(row) == wanted, row
        # conversational or not, what TRL takes is taken, and a dialogue is the prompt with the better answer
        assert is_conversational({"chosen": row["chosen"]}) == (not isinstance(row["chosen"], str))
        assert as_dialogue(row) == wanted[0] + wanted[1]


ROLES = ("user", "assistant", "assistant")


def test_unpairing_a_pair_as_trl_does_gives_rows_that_are_read():
    import datasets
    from trl.data_utils import unpair_preference_dataset

    rows = unpair_preference_dataset(datasets.Dataset.from_list([PREFERENCES[1]]))
    assert [as_unpaired(row) for row in rows] == [([USER], [GOOD], True), ([USER], [BAD], False)]


def test_chat_templates_see_what_trl_shows_them():
    """Every conversational shape: turns as `apply_chat_template` of TRL renders them, with a template that shows all."""
    from trl.data_utils import apply_chat_template

    class Shown:
        def apply_chat_template(self, turns, **options):
            return "".join(f"<{turn['role']}>{turn['content']}" for turn in turns)

    shown = Shown()
    for row in (
        {"messages": [USER, GOOD]},
        {"prompt": [USER], "completion": [GOOD]},
        {"prompt": [USER], "completion": [GOOD], "label": True},
    ):
        theirs = apply_chat_template(dict(row), shown)
        assert shown.apply_chat_template(as_dialogue(row)) == theirs.get(
            "text", theirs.get("prompt", "") + theirs.get("completion", "")
        )
    assert shown.apply_chat_template(as_prompt({"prompt": [USER]})[0]) == apply_chat_template({"prompt": [USER]}, shown)["prompt"]


def test_meta_holds_scalars_that_are_not_part_of_the_row_itself():
    row = {"text": "x", "b": 1, "a": "ü", "none": None, "nan": float("nan"), "deep": {}, "big": 2**64}
    assert meta_of(row, ("text",)) == '{"a":"ü","b":1,"big":18446744073709551616}'
    assert meta_of({"text": "x"}, ("text",)) is None and meta_of({"a": "\ud800"}, ()) == '{"a":"\ufffd"}'
    deep = {"metadata": {"url": "u", "list": [1], "a": {"b": {"c": 1, "d": {"e": 2}}}}, "meta": None}
    assert meta_of(deep, ()) == '{"metadata.a.b.c":1,"metadata.url":"u"}'
    made = read_row({"prompt": "q", "completion": "a", "label": True, "answer": "a", "url": "u"}, None, "f", 0, 1)
    assert isinstance(made, dict) and made["meta"] == '{"url":"u"}'
    assert read_row({"prompt": "q", "url": "u"}, "url", "f", 0, 1)["meta"] == '{"prompt":"q"}'


SYSTEM, TOOL = {"role": "system", "content": "s"}, {"role": "tool", "content": "7"}


@pytest.mark.parametrize(
    ("row", "right"),
    [
        ({"messages": [USER, GOOD], "system": "s"}, [SYSTEM, USER, GOOD]),
        ({"messages": [SYSTEM, USER, GOOD], "system_prompt": " s "}, [SYSTEM, USER, GOOD]),
        ({"prompt": "q", "completion": "yes", "system_prompt": "s"}, [SYSTEM, USER, GOOD]),
        ({"instruction": "q", "output": "yes", "system": "s", "history": [["q", "no"]]}, [SYSTEM, USER, BAD, USER, GOOD]),
        ({"instruction": "q", "input": "", "history": "[]", "chosen": "yes", "rejected": "no"}, [USER, GOOD]),
        ({"system": "s", "question": "q", "chosen": "yes", "rejected": "no"}, [SYSTEM, USER, GOOD]),
        ({"messages": [{"role": "human", "content": "q"}, {"role": "GPT", "content": "yes"}]}, [USER, GOOD]),
        ({"messages": [{"role": "User", "value": "q"}, {"from": "bot", "content": "yes"}]}, [USER, GOOD]),
        ({"messages": [USER, {"role": "function", "content": "7"}, GOOD]}, [USER, TOOL, GOOD]),
        # what the turns say, what says nothing, and what is about the row
        ({"messages": [USER, GOOD], "question": "q", "tools": [], "images": None, "system": "", "functions": "[]"}, [USER, GOOD]),
        (
            {"messages": [USER, GOOD], "id": "a", "source": "b", "url": "c", "score": 3, "tags": ["x"], "meta": {"a": 1}},
            [USER, GOOD],
        ),
        ({"messages": [USER, GOOD], "prompt": "q", "prompt_id": "1", "score_chosen": 2.5, "train": True}, [USER, GOOD]),
    ],
)
def test_columns_beside_the_shape_are_read_or_harmless(row, right):
    assert as_dialogue(row) == right


def test_turns_that_are_not_to_be_learned_have_no_weight():
    for key in ("weight", "train", "training", "loss"):
        for value in (0, False):
            turns = as_dialogue({"messages": [USER | {key: None}, BAD | {key: value}, USER, GOOD | {key: True}]})
            assert turns == [USER, BAD | {"weight": 0}, USER, GOOD]
    assert as_prompt({"messages": [USER, BAD | {"weight": 0}, USER, GOOD]})[0] == [USER, BAD, USER]


MORE = ("available_tools", "function_definitions", "images", "videos", "audios", "thinking", "reasoning_content", "tool_calls",
        "history", "chat_template_kwargs", "context", "documents", "Image_URL", "image2", "loss_mask", "labels")  # fmt: skip
SHAPES = ({"messages": [USER, GOOD]}, {"conversations": [USER, GOOD]}, {"prompt": [USER], "completion": [GOOD]})


@pytest.mark.parametrize("column", MORE)
@pytest.mark.parametrize("row", SHAPES)
def test_columns_that_would_change_what_is_learned_are_named(row, column):
    with pytest.raises(DataError) as caught:
        as_dialogue(row | {column: [{"x": 1}]})
    assert caught.value.what == f"unread_key: {column}"
    made = read_row(row | {column: [{"x": 1}]}, None, "f", 0, 1)
    assert made.reason == f"unread_key: {column}"


@pytest.mark.parametrize(
    ("function", "row", "what"),
    [
        (as_dialogue, {"instruction": "q", "output": ["a"]}, "wrong_shape: output"),
        (as_dialogue, {"instruction": ["a"], "output": "b"}, "wrong_shape: instruction"),
        (as_dialogue, {"instruction": "q", "input": {"a": 1}, "output": "b"}, "wrong_shape: input"),
        (as_dialogue, {"instruction": "q", "output": 1.5}, "wrong_shape: output"),
        (as_dialogue, {"instruction": " ", "input": "", "output": "b"}, "missing_column: instruction"),
        (as_dialogue, {"instruction": "q", "output": "a", "history": ["x"]}, "wrong_shape: history"),
        (as_dialogue, {"instruction": "q", "output": "a", "history": [["x", None]]}, "wrong_shape: history"),
        (as_dialogue, {"messages": [USER, GOOD], "system": ["s"]}, "wrong_shape: system"),
        (as_dialogue, {"messages": [SYSTEM, USER, GOOD], "system": "other"}, "unread_key: system"),
        (as_dialogue, {"prompt": "q", "completion": "a", "input": "more"}, "unread_key: input"),
        (as_dialogue, {"messages": [USER, GOOD], "weight": 0.5}, "unread_key: weight"),
        (as_dialogue, {"messages": [USER, GOOD | {"weight": 0.5}]}, "unread_key: messages.weight"),
        (as_dialogue, {"messages": [USER, GOOD | {"train": "false"}]}, "unread_key: messages.train"),
        (as_dialogue, {"messages": [USER | {"train": True}, GOOD]}, "unread_key: messages.train"),
        (as_dialogue, {"messages": [USER | {"name": ["Bob"]}, GOOD]}, "unread_key: messages.name"),
        (as_dialogue, {"messages": [USER, {"role": "assistant", "content": [{"type": "text", "text": "a", "train": False}]}]},
         "unread_key: messages.content.train"),
        (as_dialogue, {"conversations": [{"from": "Alice", "value": "q"}]}, "unknown_role: Alice"),
        (as_pair, {"prompt": "q", "chosen": [GOOD | {"weight": 0}], "rejected": [BAD]}, "unread_key: chosen.weight"),
        (as_pair, {"problem": "q", "chosen": "It is a.", "rejected": "It is b."}, "missing_column: prompt"),
        (as_pair, {"dialog": [USER], "chosen": "It is a.", "rejected": "It is b."}, "missing_column: prompt"),
        (as_pair, {"messages": [USER, GOOD], "chosen": "It is a.", "rejected": "It is b."}, "missing_column: prompt"),
        (as_pair, {"prompt": "q", "tools": [1], "chosen": "a", "rejected": "b"}, "invalid_tools: json"),
        (as_unpaired, {"prompt": "q", "completion": "a", "label": True, "images": ["x"]}, "unread_key: images"),
        (as_prompt, {"prompt": "q", "tools": [1]}, "invalid_tools: json"),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_named(function, row, what):
    with pytest.raises(DataError) as caught:
        function(row)
    assert caught.value.what == what


@pytest.mark.parametrize(
    "row",
    [
        {"instruction": "q", "input": "", "chosen": "It is yes", "rejected": "It is no"},
        {"question": "q", "chosen": "It is yes", "rejected": "It is no"},
        {"messages": [USER], "chosen": "It is yes", "rejected": "It is no"},
        {"conversations": [{"from": "human", "value": "q"}], "chosen": {"from": "gpt", "value": "It is yes"},
         "rejected": {"from": "gpt", "value": "It is no"}},
    ],
)  # fmt: skip
def test_a_pairs_question_is_never_what_its_answers_share(row):
    asked, chosen, rejected = as_pair(row)
    assert asked == [USER] and (chosen[0]["content"], rejected[0]["content"]) == ("It is yes", "It is no")
    assert as_pair({"chosen": "It is yes", "rejected": "It is no", "id": "7", "source": "web"})[0][0]["content"] == "It is"


def test_a_prompt_has_its_system_turn_and_history():
    row = {"instruction": "q", "system": "s", "history": [["q", "no"]], "answer": "yes"}
    assert as_prompt(row) == ([SYSTEM, USER, BAD, USER], "yes") and as_text(row).startswith("s")
    assert as_unpaired({"question": "q", "system": "s", "completion": "yes", "label": True})[0] == [SYSTEM, USER]
