"""The question as it is."""

from raylm.data.answers import answer_of
from raylm.evaluate.items import Item
from raylm.evaluate.techniques.technique import voted
from raylm.evaluate.techniques.zero_shot import ZeroShot


def test_nothing_is_added():
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2 + 2?"}]
    assert ZeroShot().messages(Item("x", turns, "4", {}, ""), []) == turns
    assert (ZeroShot().draws, ZeroShot().examples) == (1, (0, 0))


def test_what_a_model_thinks_is_no_answer():
    assert answer_of("<think>3? no</think>4") == "4" and answer_of("4") == "4"
    assert answer_of("\n<think>Is it 3, or") == ""


def test_most_votes_win_and_an_empty_answer_has_none():
    assert voted(["3", "4", "", "4", ""]) == 1
    assert voted(["3", "4"]) == 0 and voted(["", ""]) == 0 and voted(["", "", "7"]) == 2
