"""Prompts that begin alike go together, and still no replica is flooded."""

from __future__ import annotations

from collections import Counter

from raylm.serve.directory import Load
from raylm.serve.routing.prefix import Prefix
from raylm.serve.routing.routing import Asked
from tests.serve.routing.test_least_loaded import candidate


def asking(text: str, model: str = "m") -> Asked:
    return Asked(model, "/v1/completions", prefix=text.encode(), tokens=len(text) // 4)


def test_a_prompt_goes_where_its_beginning_was_read():
    card = Prefix(block_bytes=16)
    one, other = "a" * 160, "b" * 160
    first = card.choose(asking(one), [candidate("x"), candidate("y", tokens=1)])
    second = card.choose(asking(other), [candidate("x", tokens=1), candidate("y")])
    assert (first.address.replica, second.address.replica) == ("x", "y")
    for _ in range(20):
        idle = [candidate("x"), candidate("y")]
        assert card.choose(asking(one + "and more"), idle).address.replica == "x"
        assert card.choose(asking(other + "and more"), idle).address.replica == "y"


def test_the_longest_beginning_counts():
    card = Prefix(block_bytes=16)
    system, long = "s" * 32, "s" * 32 + "t" * 64
    card.choose(asking(system), [candidate("x")])
    card.choose(asking(long), [candidate("y")])
    chain = card._chain(asking(long + "?" * 16))
    assert [card._known(candidate(name), chain) for name in "xyz"] == [2, 6, 0]
    assert card.choose(asking(long + "?" * 16), [candidate("x"), candidate("y"), candidate("z")]).address.replica == "y"


def test_what_is_saved_is_weighed_against_the_work_of_others():
    card = Prefix(block_bytes=16, bound=100)
    card.choose(asking("s" * 64), [candidate("x")])
    # 4 blocks of 16 bytes are 16 tokens
    assert card.choose(asking("s" * 64), [candidate("x", tokens=15), candidate("y")]).address.replica == "x"
    assert card.choose(asking("s" * 64), [candidate("x", tokens=17), candidate("y")]).address.replica == "y"
    # now both know it
    assert card.choose(asking("s" * 64), [candidate("x", tokens=17), candidate("y", tokens=18)]).address.replica == "x"
    twice = Prefix(block_bytes=16, bound=100, worth=2)
    twice.choose(asking("s" * 64), [candidate("x")])
    assert twice.choose(asking("s" * 64), [candidate("x", tokens=31), candidate("y")]).address.replica == "x"


def test_the_bound_holds_whatever_is_saved():
    card = Prefix(block_bytes=16, bound=1.2, worth=1000)
    text = "s" * 64
    card.choose(asking(text), [candidate("x")])
    # mean with the new 16 tokens: 58, of which 1.2 are 69.6
    assert card.choose(asking(text), [candidate("x", tokens=69), candidate("y", tokens=31)]).address.replica == "x"
    assert card.choose(asking(text), [candidate("x", tokens=70), candidate("y", tokens=30)]).address.replica == "y"


def test_one_system_prompt_for_all_does_not_flood_one_replica():
    """All requests begin alike and none ends: the load spreads all the same, though replicas never tell theirs."""
    card, sent = Prefix(block_bytes=16, bound=1.5), Counter(dict.fromkeys("abcd", 0))
    for number in range(400):
        asked = asking("You are a helpful assistant. " * 20 + f"{number:016d}")
        candidates = [candidate(name, under_way=n, tokens=n * asked.tokens) for name, n in sent.items()]
        sent[card.choose(asked, candidates).address.replica] += 1
        # at most bound times the mean, with the new one in it, and one request; and no further apart than what is saved
        assert max(sent.values()) <= 1.5 * sum(sent.values()) / 4 + 1
        assert max(sent.values()) - min(sent.values()) <= 2


def test_a_full_replica_is_not_chosen_for_what_it_has_read():
    card = Prefix(block_bytes=16)
    card.choose(asking("a" * 160), [candidate("x")])
    assert card.choose(asking("a" * 160), [candidate("x", Load(kv_use=0.99)), candidate("y")]).address.replica == "y"


def test_adapters_starts_and_weights_have_caches_of_their_own():
    card, text = Prefix(block_bytes=16), "a" * 160
    card.choose(asking(text), [candidate("x")])
    here = candidate("x")
    swapped = here._replace(address=here.address._replace(fingerprint="other"))
    assert card._known(here, card._chain(asking(text))) == 10
    assert card._known(here, card._chain(asking(text, model="adapter"))) == 0
    assert card._known(swapped, card._chain(asking(text))) == 0
    assert card._known(candidate("x2"), card._chain(asking(text))) == 0


def test_memory_is_bounded_and_the_ends_of_the_oldest_go_first():
    card = Prefix(block_bytes=16, most_blocks=12)
    replica = candidate("x")
    card.choose(asking("a" * 160), [replica])
    card.choose(asking("b" * 96), [replica])
    assert len(card._seen) == 12
    # 6 new ones of b: the last 4 of the 10 of a went, and its beginning can still be used
    assert card._known(replica, card._chain(asking("a" * 160))) == 6
    assert card._known(replica, card._chain(asking("b" * 96))) == 6
    card.choose(asking("c" * 3200), [replica])
    assert len(card._seen) == 12
