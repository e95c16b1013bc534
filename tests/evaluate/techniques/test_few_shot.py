"""Solved questions before the question."""

from __future__ import annotations

import json

from raylm.evaluate.items import item_of
from raylm.evaluate.techniques.few_shot import FewShot
from raylm.evaluate.techniques.technique import chosen


def row(at, truth="yes"):
    return {
        "messages": json.dumps([{"role": "system", "content": "s"}, {"role": "user", "content": f"q{at}"}]),
        "ground_truth": truth,
    }


def test_examples_stand_as_turns_between_system_and_question():
    rows = [row(0), row(1, None), row(2, "no"), row(3)]
    card, asked = FewShot(num_examples=2, seed=3), item_of(row(3))
    shots = chosen(rows, card, {asked.id})
    assert sorted(shot.question for shot in shots) == ["s\nq0", "s\nq2"]
    assert shots == chosen(rows, card, {asked.id})
    turns = card.messages(asked, shots)
    assert [turn["role"] for turn in turns] == ["system", "user", "assistant", "user", "assistant", "user"]
    assert turns[-1]["content"] == "q3" and {turns[2]["content"], turns[4]["content"]} == {"yes", "no"}


def test_too_few_examples_are_seen():
    assert len(chosen([row(0)], FewShot(num_examples=2), set())) == 1


def test_the_question_itself_is_no_example_whatever_else_its_row_says():
    rows = [row(3) | {"columns": json.dumps({"number": 1})}, row(4)]
    asked = item_of(row(3) | {"columns": json.dumps({"number": 2})})
    shots = chosen(rows, FewShot(num_examples=2), {asked.question_id})
    assert [shot.question for shot in shots] == [item_of(row(4)).question]
