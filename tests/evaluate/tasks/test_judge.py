"""What a judge says of answers: scores, comparisons in both orders, agreement with itself."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from raylm.core.errors import ConfigError, DataError
from raylm.evaluate.instances import means
from raylm.evaluate.lm import LM
from raylm.evaluate.tasks.judge import Judge
from tests.evaluate.fakes import Says

WHO = {"name": "big", "url": "http://127.0.0.1:9/v1", "model": "big"}


def prompt(at, truth="4"):
    turns = [{"role": "user", "content": f"Which is {at}?"}]
    return {"tokens": [1], "messages": json.dumps(turns), "ground_truth": truth, "columns": json.dumps({"theirs": "five"})}


def asked(card, says, rows=(prompt(0), prompt(1))):
    seen, made = [], []

    def judged(prompts, max_tokens):
        seen.extend(turns[0]["content"] for turns in prompts)
        return [says(turns[0]["content"]) for turns in prompts]

    def beside(model, room):
        made.append((model, room))
        return LM("judge", answerer=Says(judged, reads_tokens=False))

    answers = Says(lambda prompts, _: ["four"] * len(prompts), reads_tokens=False)
    lm = LM("nowhere", answerer=answers, beside=beside)
    return card.grade(lm, list(rows)), seen, lm, made


def test_a_score_of_the_rubric():
    card = Judge(rows="rows", judge=WHO)
    found, seen, _, made = asked(card, lambda text: "Good.\nScore: 7.5")
    assert means(found) == {"judge": 0.75} and card.better == {"judge": "high"}
    assert "=== ground truth\n4" in seen[0] and "=== answer\nfour" in seen[0] and made[0][0].url == WHO["url"]
    assert "four\n--- the judge: Good." in found[0].output


def test_the_answer_that_wins_in_both_orders_wins():
    card = Judge(rows="rows", judge=WHO, mode="pairwise", opponent="theirs")

    def prefers_ours(text):
        return "Better: A" if text.index("four") < text.index("five") else "Better: B"

    found, seen, *_ = asked(card, prefers_ours)
    assert means(found) == {"judge": 1.0, "judge_position_bias": 0.0} and len(seen) == 4
    found, *_ = asked(card, lambda text: "Better: A")
    assert means(found) == {"judge": 0.5, "judge_position_bias": 1.0}
    found, *_ = asked(card, lambda text: "Better: neither" if "1?" in text else prefers_ours(text))
    assert means(found) == {"judge": 0.75, "judge_position_bias": 0.0}


def test_a_judge_that_is_asked_again_may_contradict_itself():
    card = Judge(rows="rows", judge=WHO, repeats=3, judge_temperature=1.0)
    found, *_ = asked(card, lambda text: ["Score: 5", "Score: 5", "Score: 8"])
    assert means(found) == {"judge": pytest.approx(0.6), "judge_agreement": pytest.approx(1 / 3)}


def test_words_that_cannot_be_read_are_counted_and_too_many_are_no_grade():
    rows = [prompt(at) for at in range(10)]
    found, _, lm, _ = asked(Judge(rows="rows", judge=WHO), lambda text: "Hm" if "0?" in text else "Score: 3", rows)
    assert len(found) == 9 and lm.notes() == ["without 1 of 10 texts of which the judge said nothing that can be read"]
    with pytest.raises(DataError, match="10 of 10 texts of which the judge"):
        asked(Judge(rows="rows", judge=WHO), lambda text: "Score: 11", rows)


def test_what_does_not_go_together_is_refused():
    with pytest.raises(ValidationError, match="raise it"):
        Judge(rows="rows", judge=WHO, repeats=2)
    with pytest.raises(DataError, match="without an answer in 'nothing'"):
        asked(Judge(rows="rows", judge=WHO, mode="pairwise", opponent="nothing"), lambda text: "")
    with pytest.raises(ConfigError, match="no other model"):
        LM("nowhere").beside("x", 1)
