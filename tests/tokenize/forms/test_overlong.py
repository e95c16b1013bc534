"""Dialogues longer than a row: what is left of them is a whole dialogue, and each learned token is learned once."""

import pytest

from raylm.core.errors import DataError
from raylm.tokenize.forms.dialogues import Dialogues
from raylm.tokenize.forms.overlong import windows
from raylm.tokenize.forms.pairs import Pairs
from raylm.tokenize.forms.prompts import Prompts
from raylm.tokenize.forms.unpaired import Unpaired
from tests.tokenize.forms.test_chat import CHATML, QWEN3
from tests.tokenize.samples import table, tokenizer, turn
from tests.tokenize.templates import chat_of, learned, said

END = "<|im_end|>\n"
LED = turn("system", "kind")
LONG = [LED, *(part for at in range(6) for part in (turn("user", f"Text {at}?"), said(f"spam {at}")))]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return tokenizer(tmp_path_factory.mktemp("coder"))


def rendered(coder, turns):
    return coder.apply_chat_template(turns, tokenize=True)["input_ids"]


def answers(coder, made):
    return [part for row in made.table.to_pylist() for part in learned(coder, row["tokens"], row["mask"])]


def test_the_left_is_truncated_by_exchanges_and_then_by_words(plain):
    coder, _ = chat_of(plain, CHATML)
    length = len(rendered(coder, [LED, *LONG[5:]]))
    form = Dialogues(length=length, overlong="truncate_left")
    made = form.rows(coder, table({"messages": LONG}))
    assert made.table["tokens"].to_pylist() == [rendered(coder, [LED, *LONG[5:]])]
    assert answers(coder, made) == [f"spam {at}{END}" for at in range(2, 6)]
    whole = len(rendered(coder, LONG))
    assert made.index["num_tokens"].to_pylist() == [whole] and made.index["lengths"].to_pylist() == [[length]]
    facts = form.facts(made.sums, made.sums - made.sums)["overlong"]
    assert (
        facts["truncate_left rows"] == 1 and facts["tokens left out"] == whole - length and facts["learned tokens left out"] > 0
    )
    # one question that is too long loses its first words; headers, system turn and answer stay
    made = form.rows(coder, table({"messages": [LED, turn("user", "spam " * 300 + "last?"), said("yes")]}))
    (tokens,) = made.table["tokens"].to_pylist()
    text = coder.decode(tokens)
    assert length - 4 <= len(tokens) <= length and text.startswith("<|im_start|>system\nkind<|im_end|>\n<|im_start|>user\n")
    assert text.endswith(f"last?{END}<|im_start|>assistant\nyes{END}") and answers(coder, made) == ["yes" + END]
    # and an answer that is too long is dropped
    made = form.rows(coder, table({"messages": [turn("user", "a"), said("spam " * 300)]}))
    assert dict(made.dropped) == {"too_long": 1} and not made.table.num_rows


def test_the_right_is_truncated_where_something_learned_is_left(plain):
    coder, _ = chat_of(plain, CHATML)
    form = Dialogues(length=60, overlong="truncate_right")
    made = form.rows(coder, table({"messages": LONG}, {"messages": [turn("user", "spam " * 300), said("yes")]}))
    assert made.table["tokens"].to_pylist() == [rendered(coder, LONG)[:60]] and any(made.table["mask"].to_pylist()[0])
    assert dict(made.dropped) == {"no_answer_left": 1}


@pytest.mark.parametrize("template", [CHATML, QWEN3])
@pytest.mark.parametrize("length", [40, 61, 90])
def test_split_rows_learn_each_token_once(plain, template, length):
    coder, _ = chat_of(plain, template)
    turns = [*LONG, turn("user", "more"), said("Text number " * 60)]
    form = Dialogues(length=length, overlong="split")
    made = form.rows(coder, table({"messages": turns}))
    rows = made.table.to_pylist()
    assert all(len(row["tokens"]) <= length for row in rows) and not made.dropped
    whole = Dialogues(length=4000).rows(coder, table({"messages": turns}))
    assert made.sums["answer_tokens"] == whole.sums["answer_tokens"]
    assert "".join(answers(coder, made)) == "".join(answers(coder, whole))
    assert not any(row["mask"][0] for row in rows)
    assert form.facts(made.sums, made.sums - made.sums)["overlong"] == {"split_dialogues": 1}


def test_only_the_last_turn_of_a_split_dialogue_is_learned_where_that_is_asked(plain):
    coder, _ = chat_of(plain, CHATML)
    made = Dialogues(length=60, overlong="split", mask_history=True).rows(coder, table({"messages": LONG}))
    assert answers(coder, made) == ["spam 5" + END]


def test_windows():
    parts = windows(list(range(20)), [0] * 3 + [1] * 17, 8)
    assert [part.tokens for part in parts] == [list(range(8)), list(range(6, 14)), list(range(12, 20))]
    assert [part.mask for part in parts] == [[0] * 3 + [1] * 5, [0] * 2 + [1] * 6, [0] * 2 + [1] * 6]
    assert [part.tokens for part in windows(list(range(20)), [0] * 16 + [1] * 4, 8)] == [list(range(12, 20))]


def test_prompts_of_pairs_answers_and_prompts(plain):
    coder, chat = chat_of(plain, CHATML)
    asked, good, bad = [*LONG[:-1]], [said("yes")], [said("no, no")]
    kept = [LED, *asked[-3:]]
    prompt = chat.prompt(kept)
    length = len(prompt) + len(chat.answers(kept, bad)[1][0])
    pair = {"prompt": asked, "chosen": good, "rejected": bad}
    made = Pairs(length=length, overlong="truncate_left").rows(coder, table(pair))
    assert made.table["prompt"].to_pylist() == [prompt] and made.sums["overlong: truncate_left rows"] == 1
    assert Pairs(length=length).rows(coder, table(pair)).dropped == {"too_long": 1}
    judged = {"prompt": asked, "completion": bad, "label": False}
    assert Unpaired(length=length, overlong="truncate_left").rows(coder, table(judged)).table["prompt"].to_pylist() == [prompt]
    made = Prompts(length=len(prompt), overlong="truncate_left").rows(coder, table({"prompt": asked}))
    assert made.table["tokens"].to_pylist() == [prompt] and '"Text 0?"' not in made.table["messages"].to_pylist()[0]
    with pytest.raises(DataError, match="too_long"):
        chat_too_long = Prompts(length=8, overlong="truncate_left").rows(
            coder, table({"prompt": [LED, turn("assistant", "x" * 90)]})
        )
        raise DataError(next(iter(chat_too_long.dropped)))
