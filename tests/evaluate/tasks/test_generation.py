"""Answers that are generated and checked, by prompting techniques."""

from __future__ import annotations

import itertools
import json

import pytest
from pydantic import ValidationError

from raylm.core.artifact import Prompts
from raylm.core.errors import DataError
from raylm.data.shards import Rows
from raylm.evaluate.instances import means
from raylm.evaluate.lm import LM
from raylm.evaluate.tasks.generation import Generation, pass_at
from tests.evaluate.fakes import Says
from tests.rows import make_rows


def prompt(at, truth):
    turns = [{"role": "user", "content": f"Which is {at}?"}]
    return {"tokens": [1, at + 2], "messages": json.dumps(turns), "ground_truth": truth, "columns": None}


def asked(card, truths, answer):
    """Grades, and what was asked."""
    seen = []

    def answered(prompts, max_tokens):
        seen.extend(prompts)
        return [answer(turns[-1]["content"]) for turns in prompts]

    rows = [prompt(at, truth) for at, truth in enumerate(truths)]
    return card.grade(LM("nowhere", answerer=Says(answered, reads_tokens=False)), rows), seen


def test_answers_are_checked_and_kept():
    found, seen = asked(Generation(rows="rows"), ["0", "1", "7"], lambda text: text.rpartition(" ")[2].strip("?"))
    assert means(found) == {"generation": pytest.approx(2 / 3)}
    assert seen[0] == [{"role": "user", "content": "Which is 0?"}]
    assert (found[2].output, found[2].facts["why"], found[2].tokens) == ("2", "another answer", 1)
    assert found[0].seconds == 0.25


def test_the_id_of_a_question_is_that_of_every_technique():
    plain, _ = asked(Generation(rows="rows"), ["0"], lambda _: "0")
    card = Generation(rows="rows", technique={"kind": "chain_of_thought"})
    thought, seen = asked(card, ["0"], lambda _: "Zero it is.\n#### 0")
    assert plain[0].id == thought[0].id and "step by step" in seen[0][0]["content"]
    assert thought[0].values == {"generation_chain_of_thought": 1.0} == dict.fromkeys(card.better, 1.0)


def test_pass_at_k_is_the_share_of_all_choices_of_k_with_a_right_one():
    for draws, right, k in itertools.product([1, 4, 5], [0, 1, 3], [1, 2, 4]):
        if k <= draws and right <= draws:
            choices = list(itertools.combinations([at < right for at in range(draws)], k))
            assert pass_at(k, draws, right) == pytest.approx(sum(map(any, choices)) / len(choices))
    card = Generation(rows="rows", num_draws=4, pass_at=[1, 2], temperature=1.0)
    found, _ = asked(card, ["0"], lambda _: ["0", "1", "2", "3"])
    assert found[0].values == {"generation_pass_at_1": 0.25, "generation_pass_at_2": 0.5} and found[0].tokens == 4


def test_draws_vote():
    card = Generation(rows="rows", technique={"kind": "self_consistency", "num_draws": 4}, name="vote")
    found, _ = asked(card, ["5"], lambda _: ["#### 4", "#### 5", "so #### 5.0", "none"])
    assert found[0].values == {"vote": 1.0} and found[0].output == "#### 5"


def test_a_tenth_at_each_step_is_more_than_a_tenth():
    """Two questions cannot be checked and one has no answer: each step loses a tenth at most, all of them three of twenty."""

    class Silent(Says):
        def complete(self, prompts, sampling, seeds):
            for at, found in super().complete(prompts, sampling, seeds):
                yield at, "that nobody answered" if at == 0 else found

    rows = [prompt(at, None if at < 2 else "0") for at in range(20)]
    lm = LM("nowhere", answerer=Silent(lambda prompts, _: ["0"] * len(prompts), reads_tokens=False))
    with pytest.raises(DataError, match="no grade: 3 of 20 instances have none: 1 of 20 texts that nobody answered, 2 of 20"):
        Generation(rows="rows").grade(lm, rows)


def test_examples_come_from_the_train_split(tmp_path):
    rows = [prompt(at, str(at)) for at in range(6)]
    make_rows(tmp_path, "prompts", Prompts, rows, held_out=2)
    held_out = Rows.open(str(tmp_path / "prompts"), "held_out")
    seen = []

    def answered(prompts, max_tokens):
        seen.extend(prompts)
        return ["0"] * len(prompts)

    lm = LM("nowhere", answerer=Says(answered, reads_tokens=False))
    Generation(rows="prompts", technique={"kind": "few_shot", "num_examples": 2}).grade(lm, held_out)
    asked_now = {turns[-1]["content"] for turns in seen}
    assert [len(turns) for turns in seen] == [5, 5] and seen[0][:4] == seen[1][:4]
    assert not {turn["content"] for turn in seen[0][:4]} & asked_now
    with pytest.raises(DataError, match="asks for 9 examples, the train split has"):
        Generation(rows="prompts", technique={"kind": "few_shot", "num_examples": 9}).grade(lm, held_out)


@pytest.mark.parametrize(
    ("table", "why"),
    [
        ({"num_draws": 2}, "temperature = 0 draws the same"),
        ({"num_draws": 2, "temperature": 1.0, "pass_at": [3]}, "every k lies between"),
        ({"checker": {"kind": "code"}, "technique": {"kind": "self_consistency"}}, "cannot vote"),
        ({"technique": {"kind": "self_consistency"}, "num_draws": 2, "temperature": 1.0}, "draws by itself"),
    ],
)
def test_what_does_not_go_together_is_refused(table, why):
    with pytest.raises(ValidationError, match=why):
        Generation(rows="rows", **table)
    with pytest.raises(DataError, match="without a ground truth"):
        asked(Generation(rows="rows"), [None, "1"], lambda _: "1")
