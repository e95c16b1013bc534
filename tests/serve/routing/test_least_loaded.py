"""Hand-worked loads, and who is chosen for them."""

from __future__ import annotations

from collections import Counter

import pytest
from pydantic import ValidationError

from raylm.core.config import resolve
from raylm.serve.config import Serve
from raylm.serve.directory import Address, Load
from raylm.serve.routing.least_loaded import LeastLoaded
from raylm.serve.routing.prefix import Prefix
from raylm.serve.routing.routing import Asked, Candidate, RoutingCard, session_of, work

ASKED = Asked("m", "/v1/chat/completions", tokens=100)


def candidate(name: str, load: Load = Load(), under_way: int = 0, tokens: int = 0) -> Candidate:
    return Candidate(Address(name, "m", "127.0.0.1", 1, "s"), load, under_way, tokens)


def test_work_is_what_was_sent_and_what_the_replica_tells():
    assert work(candidate("a"), ASKED) == 0
    assert work(candidate("a", tokens=250), ASKED) == 250
    assert work(candidate("a", Load(queued_tokens=40), tokens=250), ASKED) == 290
    # 3 requests of another gateway, 100 tokens each
    assert work(candidate("a", Load(queued_tokens=40), 2, 250)._replace(others=3), ASKED) == 550
    # it has not told yet of what was sent last
    assert work(candidate("a", Load(running=0, waiting=0, queued_tokens=0), 2, 250), ASKED) == 250


def test_least_work_is_chosen():
    card = LeastLoaded()
    light, heavy = candidate("light", tokens=100), candidate("heavy", tokens=101)
    assert card.choose(ASKED, [heavy, light]) is light
    queued = candidate("queued", Load(queued_tokens=500))
    assert card.choose(ASKED, [queued, heavy]) is heavy


def test_a_full_cache_is_asked_last():
    card = LeastLoaded()
    full, busy = candidate("full", Load(kv_use=0.97)), candidate("busy", Load(kv_use=0.6), 9, 9000)
    assert card.choose(ASKED, [full, busy]) is busy
    assert card.choose(ASKED, [full, busy._replace(load=Load(kv_use=0.95))]) is full


def test_a_replica_that_tells_nothing_is_not_flooded():
    # 300 requests, none of which ends; loads are never told
    card, sent = LeastLoaded(), Counter({"a": 0, "b": 0, "c": 0})
    for _ in range(300):
        sent[card.choose(ASKED, [candidate(name, under_way=n, tokens=100 * n) for name, n in sent.items()]).address.replica] += 1
    assert set(sent.values()) == {100}


def test_of_many_the_better_of_two_is_taken():
    card = LeastLoaded(all_up_to=4)
    many = [candidate(str(number), tokens=number) for number in range(40)]
    chosen = Counter(int(card.choose(ASKED, many).address.replica) for _ in range(4000))
    # the worst is never the better of two; the best only where it is drawn: 1 - (39/40)(38/39) = 5 % of the times
    assert chosen[39] == 0
    assert 100 < chosen[0] < 320
    # the mean of the smaller of two draws is a third of the range
    assert 12 < sum(number * times for number, times in chosen.items()) / 4000 < 14.5


def test_equal_ones_get_equal_shares():
    chosen = Counter(LeastLoaded().choose(ASKED, [candidate("a"), candidate("b")]).address.replica for _ in range(400))
    assert 130 < chosen["a"] < 270


class First(RoutingCard):
    """Somebody else's."""

    def choose(self, asked, candidates):
        return candidates[0]


def test_a_custom_card_is_found_and_routing_is_no_part_of_what_is_answered():
    custom = {"kind": "custom", "path": "tests.serve.routing.test_least_loaded:First", "options": {"kv_full": 0.5}}
    served = Serve.model_validate({"model": "m", "routing": custom})
    card = resolve(served.routing)
    assert card.choose(ASKED, [candidate("a"), candidate("b")]).address.replica == "a"
    assert served.fingerprint() == Serve(model="m").fingerprint() == Serve(model="m", routing=Prefix()).fingerprint()
    with pytest.raises(ValidationError, match="least_loaded"):
        Serve.model_validate({"model": "m", "routing": {"kind": "round_robin"}})


def test_what_a_session_is():
    assert session_of({"x-session-id": "s"}, {"user": "u"}) == "s"
    assert session_of({}, {"user": "u", "prompt_cache_key": "c"}) == "c"
    assert session_of({}, {"user": 5}) == ""
    assert len(session_of({}, {"user": "u" * 5000})) == 200
