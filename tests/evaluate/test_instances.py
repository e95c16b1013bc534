"""Graded instances: metrics as quotients, ids that do not change, files that give back what was written."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from raylm.core.storage import Folder
from raylm.evaluate.instances import TEXT_CHARS, Graded, asked_id, file_of, kept, means, read, write
from raylm.evaluate.items import item_of


def one(name="a", value=1.0, weight=1.0, **more):
    return Graded(name, {"m": value}, {"m": weight}, **more)


def test_a_metric_is_the_sum_of_values_over_the_sum_of_weights():
    assert means([one(value=3.0, weight=2.0), one(value=1.0, weight=6.0)]) == {"m": 0.5}
    both = Graded("b", {"m": 1.0, "n": 4.0}, {"m": 1.0, "n": 2.0})
    assert means([one(value=0.0), both]) == {"m": 0.5, "n": 2.0}
    assert math.isnan(means([one(weight=0.0)])["m"])
    assert means([]) == {}


def test_an_id_is_of_what_is_asked_alone():
    tokens = [1, 2, 3]
    assert asked_id(tokens, "x") == asked_id(np.array(tokens, dtype=np.int32), "x") == asked_id(np.array(tokens), "x")
    assert len({asked_id([1, 2], [3]), asked_id([1], [2, 3]), asked_id([1, 2, 3]), asked_id("1")}) == 4
    assert asked_id({"a": 1, "b": "ü"}) == asked_id({"b": "ü", "a": 1}) == "629e74b982b09527"


def test_what_is_asked_twice_is_numbered_and_texts_are_bounded():
    found = kept([one("x"), one("y"), one("x"), one("x", asked="q" * 9000, facts={"length": 3})])
    assert [each.id for each in found] == ["x", "y", "x#2", "x#3"]
    assert len(found[3].asked) == TEXT_CHARS
    assert found[3].facts == {"length": "3"}


def test_files_give_back_what_was_written(tmp_path):
    graded = kept(
        [one(value=1 / 3, output="two\nlines\u2028and \ud800 half"), one("b", facts={"source": "s"}, tokens=3, seconds=0.5)]
    )
    write(Folder(tmp_path), "a.jsonl", graded)
    again = read(Folder(tmp_path), "a.jsonl")
    assert again[1] == graded[1]
    assert again[0] == graded[0]._replace(output="two\nlines\u2028and ? half")


@pytest.mark.parametrize(
    ("model", "task", "name"), [("sft", "answers", "sft-answers.jsonl"), ("sft", "answers#2", "sft-answers_2.jsonl")]
)
def test_names_of_files(model, task, name):
    assert file_of(model, task) == name


def test_models_that_are_paths_have_files_of_their_own():
    names = {file_of(model, "t") for model in ("/a/b", "/a_b", "a/b", "a_b")}
    assert len(names) == 4
    assert not any("/" in name for name in names)


def test_questions_of_other_choices_or_tests_are_others():
    row = {"messages": '[{"role": "user", "content": "Which?"}]', "ground_truth": "A"}
    rows = [row, *(row | {"columns": json.dumps(columns)} for columns in ({"choices": ["1", "2"]}, {"choices": ["1", "3"]}))]
    assert len({item_of(one).id for one in rows}) == 3
    assert item_of(rows[1]).id == item_of(dict(rows[1], source="elsewhere")).id
