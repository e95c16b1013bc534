"""Sessions stay where they are, few move when replicas come and go, and none is sent to a flooded replica."""

from __future__ import annotations

from collections import Counter

from raylm.serve.directory import Load
from raylm.serve.routing.routing import Asked, Candidate
from raylm.serve.routing.session import Session
from tests.serve.routing.test_least_loaded import candidate


def places(candidates: list[Candidate], sessions: int = 1200, key: str = "") -> list[str]:
    """Where each session goes while all replicas are idle."""
    card = Session()
    asked = [Asked("m", "/v1/chat/completions", key=key, session=f"s{number}", tokens=10) for number in range(sessions)]
    return [card.choose(each, candidates).address.replica for each in asked]


FIVE = [candidate(name) for name in "abcde"]


def test_a_session_stays_whatever_the_order_and_the_gateway():
    found = places(FIVE)
    assert found == places(FIVE[::-1])
    # even: 240 of 1200 each
    assert all(190 < times < 290 for times in Counter(found).values())
    assert found != places(FIVE, key="alice")


def test_when_a_replica_goes_only_its_sessions_move():
    before, after = places(FIVE), places(FIVE[:4])
    moved = [was for was, now in zip(before, after, strict=True) if was != now]
    assert set(moved) == {"e"} and len(moved) == before.count("e")
    # and they are spread over all that stay
    assert {now for was, now in zip(before, after, strict=True) if was == "e"} == set("abcd")


def test_when_a_replica_comes_sessions_move_only_to_it():
    before, after = places(FIVE), places([*FIVE, candidate("f")])
    moved = [now for was, now in zip(before, after, strict=True) if was != now]
    # a sixth of 1200
    assert set(moved) == {"f"} and 150 < len(moved) < 250


def test_load_is_bounded():
    """One busy person: their requests spread as soon as their replica has more than its share."""
    card, sent = Session(bound=1.5), Counter(dict.fromkeys("abcd", 0))
    for _ in range(400):
        candidates = [candidate(name, under_way=n, tokens=10 * n) for name, n in sent.items()]
        sent[card.choose(Asked("m", "/", session="one", tokens=10), candidates).address.replica] += 1
        assert max(sent.values()) <= 1.5 * sum(sent.values()) / 4 + 1
    # its first two replicas have as much as they may, the next in its order has the rest
    assert sorted(sent.values(), reverse=True) == [151, 150, 99, 0]


def test_who_has_no_session_goes_where_the_least_work_is():
    assert Session().choose(Asked("m", "/", tokens=10), [candidate("a", tokens=5), candidate("b")]).address.replica == "b"


def test_a_full_replica_is_not_kept_to():
    asked = Asked("m", "/", session="s", tokens=10)
    home = Session().choose(asked, FIVE).address.replica
    full = [each._replace(load=Load(kv_use=1.0)) if each.address.replica == home else each for each in FIVE]
    assert Session().choose(asked, full).address.replica != home
