"""Comparison of answers: hand-made ones, whose differences are known."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from raylm.compress.consumers.comparison import Verdict, compare, kl
from raylm.compress.consumers.consumer import Logprobs, Ran, top
from raylm.compress.consumers.parity import Asked, Parity

TOKENIZER: Any = SimpleNamespace(decode=lambda ids, **_: "".join(chr(97 + number) for number in ids))
LOGITS = np.array([[3.0, 1.0, 0.0, -1.0], [0.0, 2.0, 1.9995, -1.0], [0.5, 0.0, 4.0, 1.0]])


def ran(
    prompt_ids=(1, 2), tokens=(0, 1, 2), logits: np.ndarray | None = LOGITS, text: str = "abc", told: int | None = None
) -> Ran:
    ids = None if prompt_ids is None else list(prompt_ids)
    count = told if told is not None else len(ids or [])
    return Ran(ids, count, None if tokens is None else list(tokens), text, None if logits is None else top(logits, 4))


def verdict(theirs: Ran, noise: float = 1e-2, mine: Ran | None = None) -> Verdict:
    return compare(Verdict("theirs", "1"), ["text"], [mine or ran()], [theirs], noise, TOKENIZER)


def test_the_same_answer_is_equal_to_the_end():
    found = verdict(ran())
    assert (found.ids_equal, found.tokens_equal, found.differ, found.kl) == (1, 1, 0, 0.0)
    assert found.positions == 3


def test_another_prompt_token_is_named_and_its_answer_is_not_compared():
    found = verdict(ran(prompt_ids=(1, 3), tokens=(3, 3, 3)))
    assert (found.ids_equal, found.tokens_equal, found.differ, found.positions) == (0, 0, 0, 0)
    assert "prompt token 1 is 3 'd', transformers makes 2 'c'" in found.first_ids


def test_more_or_fewer_prompt_tokens_are_told_by_programs_that_tell_no_ids():
    assert verdict(ran(prompt_ids=None, told=2)).ids_equal == 1
    found = verdict(ran(prompt_ids=None, told=3))
    assert found.first_ids.endswith("3 prompt tokens, transformers makes 2") and not found.tells_ids


def test_another_token_is_a_near_tie_where_the_reference_cannot_tell_them_apart():
    # at position 1 tokens 1 and 2 are 0.0005 apart
    close = verdict(ran(tokens=(0, 2, 2)), noise=1e-3)
    assert (close.near_ties, close.differ) == (1, 0)
    found = verdict(ran(tokens=(0, 2, 2)), noise=1e-4)
    assert (found.near_ties, found.differ) == (0, 1)
    assert "answer token 1 is 2 'c', transformers says 1 'b' (its two likeliest are 0.0005 nats apart)" in found.first_token
    # 0 is none of the two
    assert verdict(ran(tokens=(0, 0, 2)), noise=1e-3).differ == 1


def test_an_answer_that_ends_early_or_late_differs():
    assert "answer token 1 is the end" in verdict(ran(tokens=(0,)), noise=1e-4).first_token
    assert "answer token 3 is 3 'd', transformers says the end" in verdict(ran(tokens=(0, 1, 2, 3))).first_token


def test_what_the_reference_ended_with_is_no_near_tie():
    mine = ran(tokens=(0,), logits=LOGITS[:2])
    # the reference's second position is the end token 1; one that goes on with it has not ended
    assert verdict(ran(tokens=(0, 1, 2)), noise=1e-3, mine=mine).differ == 1


def test_text_is_compared_where_no_tokens_are_told():
    assert verdict(ran(tokens=None, text="abc")).tokens_equal == 1
    assert "answers 'abd', transformers 'abc'" in verdict(ran(tokens=None, text="abd"), noise=1e-4).first_token
    # somewhere in it the reference has two tokens that are as likely
    assert verdict(ran(tokens=None, text="abd"), noise=1e-3).near_ties == 1


def test_what_a_program_cannot_tell_is_counted_apart():
    found = verdict(ran(prompt_ids=None, told=-1, tokens=None))
    assert (found.untold, found.ids_equal, found.differ, found.first_ids) == (1, 0, 0, "")
    assert "tells none" in Parity([found], Asked("gguf", True)).wrong()[0]


def test_divergence_is_that_of_the_distributions():
    other = LOGITS + np.array([0.0, 0.3, -0.2, 0.1])
    p, q = (np.exp(each - np.log(np.exp(each).sum(-1, keepdims=True))) for each in (LOGITS, other))
    exact = (p * np.log(p / q)).sum(-1)
    assert kl(top(LOGITS, 4), top(other, 4)) == pytest.approx(exact.tolist(), abs=1e-6)
    # over two tokens and the rest: never more
    short = kl(top(LOGITS, 4), top(other, 2))
    assert all(0 < less <= whole + 1e-9 for less, whole in zip(short, exact, strict=True))
    # positions behind another token say nothing: the prefix is another
    assert verdict(ran(tokens=(3, 1, 2), logits=other)).positions == 1


def test_missing_places_are_no_tokens():
    mine = top(LOGITS[:1], 4)
    theirs = Logprobs(np.array([[0, -1]], np.int32), np.array([[mine.values[0, 0], -np.inf]], np.float32))
    assert kl(mine, theirs) == [pytest.approx(0.0, abs=1e-6)]


def test_a_program_whose_numbers_are_none_is_wrong_at_every_dtype():
    broken = ran(tokens=(3, 3, 3), logits=np.full((3, 4), np.nan))
    found = verdict(broken)
    assert found.kl is not None and math.isnan(found.kl)
    assert "nan nats per token" in Parity([found], Asked("onnx", False, most_kl=2.0)).wrong()[0]
    # a token that the reference rules out takes no part in its distribution
    ruled_out = LOGITS.copy()
    ruled_out[:, 3] = -np.inf
    assert kl(top(ruled_out, 4), top(ruled_out, 4)) == pytest.approx([0.0] * 3)


def test_a_program_that_tells_no_log_probabilities_is_wrong_where_it_answers_nothing_alike():
    def of(*theirs: Ran) -> Verdict:
        return compare(Verdict("theirs", "1"), ["text"] * len(theirs), [ran()] * len(theirs), list(theirs), 1e-3, TOKENIZER)

    other = ran(tokens=(3, 3, 3), logits=None)
    q8, q4 = (Asked("gguf", False, most_kl=most) for most in (0.1, 2.0))
    assert "answers none of 8 prompts as transformers does; text" in Parity([of(*[other] * 8)], q8).wrong()[0]
    assert not Parity([of(*[other] * 8)], q4).wrong(), "four bits may turn all of them"
    assert not Parity([of(*[other] * 7, ran(logits=None))], q8).wrong()


def test_prompts_that_are_somebodys_are_quoted_to_their_owner_alone():
    found = Verdict("xllamacpp", "1", prompts=1, differ=1, first_token="conversation 'my salary is': answers 'too low'")
    told = Parity([found], Asked("gguf", True), private=True)
    assert "salary" in told.wrong()[0] and "salary" not in told.dumps() and "low" not in told.dumps()
    assert "salary" in Parity([found], Asked("gguf", True)).dumps()
