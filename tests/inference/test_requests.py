"""Where requests go, and what becomes of those whose generator is lost, without processes."""

from __future__ import annotations

import pytest

from raylm.inference.completions import Sampling
from raylm.inference.requests import Request, Requests


def asked(requests, *sizes, owner=None):
    made = [Request(at, [1], Sampling(n=size), at, owner) for at, size in enumerate(sizes)]
    for request in made:
        requests.add(request)
    return made


def spread(requests, places, most):
    """Places that the requests go to, until none has room."""
    found = []
    while (place := requests.next_place(places, most)) is not None:
        requests.run(place)
        found.append(place)
    return found


def test_the_least_loaded_gets_the_next_one_and_none_more_than_its_room():
    requests = Requests()
    asked(requests, 4, 1, 1, 1, 4, 1)
    # by completions, not by requests: four of one prompt weigh as much as four prompts
    assert spread(requests, [0, 1], 4) == [0, 1, 1, 1]
    assert [request.key for request in requests.owed] == [4, 5], "the order is kept: the small one does not overtake"
    (first,) = [request for request in requests.running if request.key == 0]
    requests.answered(first, ["x"], proved=True)
    assert spread(requests, [0, 1], 4) == [0, 1]
    assert spread(Requests(), [0], 4) == [] and requests.next_place([], 4) is None


def test_a_request_beyond_the_room_has_a_generator_to_itself():
    requests = Requests()
    asked(requests, 9, 1)
    assert spread(requests, [0], 4) == [0] and len(requests.owed) == 1


def test_what_a_lost_generator_owed_is_asked_first_and_once():
    requests = Requests()
    made = asked(requests, *[1] * 5)
    assert spread(requests, [0, 1], 2) == [0, 1, 0, 1]
    requests.answered(made[1], ["b"], proved=True)
    # answered by weights that were not proved: it is lost with the generator
    requests.answered(made[2], ["c"], proved=False)
    assert requests.lost(0) == [made[2], made[0]]
    assert [request.key for request in requests.owed] == [2, 0, 4] and made[2].answer is None
    assert [request.losses for request in made] == [1, 0, 1, 0, 0] and requests.lost_at[0] == {made[0], made[2]}
    assert spread(requests, [1], 9) == [1, 1, 1]
    for request in (made[0], made[2], made[3], made[4]):
        requests.answered(request, [request.key], proved=True)
    assert not requests.lost_at[0] and not requests.outstanding(None)
    assert sorted(request.key for request in requests.collect(None)) == [0, 1, 2, 3, 4] and requests.find(None, 0) is None


def test_what_was_answered_before_a_proof_counts_after_it():
    requests = Requests()
    (one,) = asked(requests, 1)
    requests.run(0)
    requests.answered(one, ["a"], proved=False)
    assert requests.outstanding(None) and not requests.collect(None)
    requests.proved(1)
    assert not requests.collect(None)
    requests.proved(0)
    assert requests.collect(None) == [one] and one.answer == ["a"]


def test_each_owner_collects_its_own_and_an_error_comes_alone():
    requests, me = Requests(), object()
    asked(requests, 1, 1, 1)
    (mine,) = asked(requests, 1, owner=me)
    with pytest.raises(ValueError, match="key 0 is under way"):
        asked(requests, 1, owner=me)
    spread(requests, [0], 9)
    for request in list(requests.running):
        requests.answered(request, ValueError() if request.key == 1 else ["x"], proved=True)
    assert requests.collect(me) == [mine]
    assert [[request.key for request in requests.collect(None)] for _ in range(3)] == [[0], [1], [2]]


def test_a_cancelled_request_leaves_no_load():
    requests = Requests()
    first, second = asked(requests, 4, 1)
    requests.run(0)
    requests.forget(first)
    requests.forget(second)
    asked(requests, 4)
    assert spread(requests, [0], 4) == [0]


def test_one_that_may_end_generators_runs_alone_and_only_a_fresh_one_that_ends_proves_it():
    requests, me = Requests(alone_from=2), object()
    poison, other, third = asked(requests, 1, 1, 1)
    (mine,) = asked(requests, 1, owner=me)
    for _ in range(2):
        assert spread(requests, [0], 9) == [0] * 4
        requests.lost(0)
    assert [request.deaths for request in (poison, other, third, mine)] == [2] * 4 and requests.suspected(poison)
    assert not requests.suspected(mine), "whoever asks for all at once is told what happened"
    # the others wait until it is answered, and so does what else there is
    assert spread(requests, [0], 9) == [0] and [one.key for one in requests.owed] == [1, 2, 0]
    requests.answered(poison, ["x"], proved=True)
    assert spread(requests, [0], 9) == [0] and list(requests.running) == [other]
    # this generator has answered before, and may have ended of something else
    requests.lost(0)
    assert other.deaths == 3 and not other.proved
    assert spread(requests, [0, 1], 9) == [0, 1], "two that are suspected have a generator each"
    requests.lost(1)
    assert third.proved and third.deaths == 3
    requests.lost(0, by_request=False)
    assert other.deaths == 3 and not other.proved, "it was ended for another reason"


def test_one_answered_before_a_proof_is_not_why_its_generator_ended():
    requests = Requests(alone_from=2)
    first, second = asked(requests, 1, 1)
    spread(requests, [0], 9)
    requests.answered(first, ["x"], proved=False)
    requests.lost(0)
    assert (first.losses, first.deaths, second.deaths) == (1, 0, 1)
