"""Answers by generators: as they come, with what cannot be answered in words, and nothing left behind."""

from __future__ import annotations

import re

import pytest

from raylm.core.errors import DataError, PlacementError
from raylm.evaluate.backends.pool_answers import PoolAnswers
from raylm.evaluate.lm import LM
from raylm.inference.completions import Completion, Quarantined, Sampling


class Generators:
    """What a pool does, without generators: answers come in reverse order, one at a look."""

    def __init__(self, answer):
        self._answer, self.asked, self.cancelled = answer, [], []
        self.seeds = {}

    def submit(self, key, tokens, sampling, seed):
        self.asked.append((key, tokens, sampling))
        self.seeds[tuple(tokens)] = seed

    def answers(self, timeout_s):
        if not self.asked:
            return []
        key, tokens, sampling = self.asked.pop()
        return [(key, self._answer(tokens, sampling))]

    def cancel(self, key):
        self.cancelled.append(key)
        return True


def says(tokens, sampling):
    one = Completion([tokens[-1], 2], [-0.5, -0.1], f"it is {tokens[-1]}", "stop")
    return [one] * sampling.n


def test_answers_find_their_prompts_in_whatever_order_they_come():
    pool = Generators(says)
    found = LM("nowhere", answerer=PoolAnswers(pool, 10)).complete([[1, 5], [1, 6], [1, 7]], Sampling(max_tokens=4))
    assert [(one.text, one.tokens, one.num_tokens) for one in found if one] == [(f"it is {at}", [at, 2], 2) for at in (5, 6, 7)]
    assert pool.cancelled == []
    assert len(set(pool.seeds.values())) == 3
    # a prompt's draw depends on no other prompt
    again = Generators(says)
    LM("nowhere", answerer=PoolAnswers(again, 10)).complete([[1, 6]], Sampling(max_tokens=4))
    assert again.seeds[1, 6] == pool.seeds[1, 6]
    LM("nowhere", answerer=PoolAnswers(again, 10)).complete([[1, 6]], Sampling(max_tokens=4, seed=1))
    assert again.seeds[1, 6] != pool.seeds[1, 6]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Quarantined(3, "out of memory"), "1 of 12 texts that ended one generator after the other"),
        (DataError("a prompt has 99 tokens"), r"1 of 12 texts that the engine refused \(a prompt has 99 tokens\)"),
    ],
)
def test_a_prompt_without_an_answer_is_counted(answer, said):
    pool = Generators(lambda tokens, sampling: answer if tokens[-1] == 9 else says(tokens, sampling))
    lm = LM("nowhere", answerer=PoolAnswers(pool, None))
    assert [one is None for one in lm.complete([[1, at] for at in range(3, 15)])] == [at == 9 for at in range(3, 15)]
    (note,) = lm.notes()
    assert re.search(said, note)


def test_what_ends_all_generators_is_raised_and_the_rest_called_off():
    pool = Generators(
        lambda tokens, sampling: PlacementError("no generator is left") if tokens[-1] == 4 else says(tokens, sampling)
    )
    with pytest.raises(PlacementError, match="no generator is left"):
        LM("nowhere", answerer=PoolAnswers(pool, None)).complete([[1, at] for at in (3, 4, 5)])
    assert pool.cancelled == [0]


def test_prompts_that_a_pool_has_dropped_are_not_waited_for():
    pool = Generators(says)
    answers = PoolAnswers(pool, None).complete([[1, 3], [1, 4]], Sampling(), [0, 1])
    next(answers)
    pool.asked.clear()
    with pytest.raises(PlacementError, match="1 prompts are not under way any more"):
        list(answers)
