"""Runs of words that items share with documents."""

from __future__ import annotations

from raylm.data.overlap import Overlap, words

LONG = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"


def test_a_run_is_found_whatever_stands_between_its_words():
    overlap = Overlap([LONG, "alpha beta gamma delta epsilon", "too short"])
    assert overlap.sizes == [3, 1, 0]
    assert overlap.found(f"Before. {LONG.upper().replace(' ', ',  ')}! After") == {0: {0, 1, 2}}
    assert overlap.found("x " + " ".join(LONG.split()[1:14])) == {0: {1}}
    assert overlap.found("Alpha, beta: gamma (delta) epsilon zeta") == {1: {0}}
    assert overlap.found("alpha beta gamma delta") == {} == overlap.found("") == overlap.found(" ".join(LONG.split()[:12]))


def test_the_form_of_many_items_is_no_evidence():
    form = "which of these is the right answer to the question that follows now namely"
    items = [f"{form} what is thing number {at} of the many things that are listed in here" for at in range(40)]
    overlap = Overlap(items)
    assert overlap.found(form) == {} and all(overlap.sizes)
    assert set(overlap.found(items[7])) == {7}
    # with two items a run of both is evidence for both
    assert set(Overlap(items[:2]).found(form)) == {0, 1}


def test_words_have_no_case_and_no_marks():
    assert words("Ünï-code, 3.5 ﬁle_name!") == ["ünï", "code", "3", "5", "file_name"]
