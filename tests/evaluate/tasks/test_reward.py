"""Answers that a reward model grades: the value at the last token that was drawn."""

from __future__ import annotations

import pytest

from raylm.core.errors import DataError
from raylm.evaluate.config import Evaluate
from raylm.evaluate.instances import means
from raylm.evaluate.lm import LM
from raylm.evaluate.tasks.reward import Reward
from raylm.evaluate.values import last_values
from raylm.model.value_head import with_value_head
from tests.evaluate.fakes import Says
from tests.model.tiny import tiny_model, tiny_tokenizer

CARD = Reward(rows="prompts", model="judge", max_tokens=4)
ROWS = [{"tokens": [1, row + 3]} for row in range(12)]


def graded(values, answers):
    asked = []

    def valuer(card, sequences):
        asked.append((card.model, sequences))
        return values[: len(sequences)]

    lm = LM("nowhere", answerer=Says(lambda prompts, most: answers[: len(prompts)], room=6), valuer=valuer)
    return means(CARD.grade(lm, ROWS)), asked


def test_the_mean_over_prompts_and_the_tokens_that_were_drawn():
    answers = [[40 + row, 2] for row in range(12)]
    grades, asked = graded([0.5 * row for row in range(12)], answers)
    assert grades == {"reward": pytest.approx(2.75)}
    assert asked == [("judge", [[1, row + 3, 40 + row, 2] for row in range(12)])]
    with pytest.raises(DataError, match="1 of 12 answers have no finite value"):
        graded([float("nan"), *[0.0] * 11], answers)


def test_values_are_those_of_the_model_and_other_tokens_are_refused(tmp_path):
    import torch

    model = with_value_head(tiny_model(vocab=300, hidden=32, layers=1), 3)
    for name, vocab in (("judge", 300), ("other", 280)):
        model.save_pretrained(tmp_path / name)
        tiny_tokenizer(vocab).save_pretrained(tmp_path / name)
    sequences = [[1, 5, 40], [1, 7, 41, 42, 2]]
    with torch.no_grad():
        known = [float(model(input_ids=torch.tensor([tokens])).logits[0, -1, 0]) for tokens in sequences]
    judge = str(tmp_path / "judge")
    assert last_values(judge, judge, sequences, "float32", 64) == pytest.approx(known, abs=1e-5)
    with pytest.raises(DataError, match="the reward model does not read the tokens of these prompts"):
        last_values(judge, str(tmp_path / "other"), sequences, "float32", 64)


def test_a_worker_beside_the_engine_is_planned_for():
    task = {"kind": "reward", "rows": "prompts", "model": "judge"}
    cfg = Evaluate.model_validate({"stage": "evaluate", "models": ["policy"], "tasks": [task], "gate": {"reward": 0.5}})
    assert {name: role.phase for name, role in cfg.roles().items()} == {"workers": 0, "generator": 1, "values": 1}
