"""Who gets the new version: shares, conversations that stay, keys, copies; and sums over gateways."""

from __future__ import annotations

import random
from collections import Counter

from raylm.serve.directory import Address
from raylm.serve.routing.routing import Asked, Candidate
from raylm.serve.updates.rollout import Compared, Counts, Rollout, Tally, opening_of, place_of, together

OLD, NEW = "0ld0", "ne37"


def candidate(name, fingerprint, model="chat"):
    return Candidate(Address(name, model, "127.0.0.1", 1, "s", fingerprint=fingerprint))


A, B, C = candidate("a", OLD), candidate("b", OLD), candidate("c", NEW)
ALL = [A, B, C]


def asked(**fields):
    return Asked(**{"model": "chat", "path": "/v1/chat/completions", **fields})


def messages(*texts):
    """The text of a conversation as gateways write it: the user's turn, the model's, the user's."""
    turns = [f"{('user', 'assistant')[at % 2]}: {text}" for at, text in enumerate(texts)]
    return "\n".join(["system: You are kind, and answer in one sentence.", *turns]).encode()


def test_a_version_that_is_being_proved_gets_nothing():
    rollout = Rollout("chat", OLD, NEW)
    assert rollout.allowed(asked(), ALL, 0.0) == [A, B]
    assert rollout.allowed(asked(), [C], 0.0) == []


def test_a_share_of_the_conversations_goes_to_the_new_version_and_stays_there():
    rollout, draws = Rollout("chat", OLD, NEW, share=0.1), random.Random(1)
    versions = Counter()
    for number in range(3000):
        conversation = [f"question {number}", "an answer", "and then?", "another", "why?"]
        seen = set()
        for turn in (1, 3, 5):
            of = asked(key="alice", prefix=messages(*conversation[:turn]))
            (version,) = {each.address.fingerprint for each in rollout.allowed(of, ALL, draws.random())}
            seen.add(version)
        assert len(seen) == 1, conversation
        versions[seen.pop()] += 1
    assert 0.08 < versions[NEW] / 3000 < 0.12
    by_session = {rollout.chosen(asked(session="s1", prefix=messages(str(at))), draws.random()) for at in range(50)}
    assert len(by_session) == 1


def test_single_prompts_are_drawn_and_another_update_meets_other_conversations():
    rollout, draws = Rollout("chat", OLD, NEW, share=0.25), random.Random(2)
    prompts = [rollout.chosen(asked(prefix=b"Once upon a time"), draws.random()) for _ in range(4000)]
    assert 0.22 < sum(prompts) / 4000 < 0.28
    first = [place_of("v1", asked(session=str(at)), 0.0) < 0.5 for at in range(400)]
    second = [place_of("v2", asked(session=str(at)), 0.0) < 0.5 for at in range(400)]
    assert 0.4 < sum(a == b for a, b in zip(first, second, strict=True)) / 400 < 0.6


def test_what_a_conversation_opens_with():
    first, later = messages("hello, it is me"), messages("hello, it is me", "hi", "what else?")
    assert opening_of(first) == opening_of(later) != opening_of(messages("hello, it is him"))
    assert opening_of(first[:8192]).endswith(b"hello, it is me")
    assert opening_of(b"def f(x):") == b""


def test_by_key_nobody_else_gets_it():
    rollout = Rollout("chat", OLD, NEW, share=0.5, keys=("alice",))
    assert rollout.allowed(asked(key="alice"), ALL, 0.99) == [C]
    assert rollout.allowed(asked(key="bob"), ALL, 0.0) == [A, B]


def test_a_version_without_replicas_leaves_its_requests_to_the_other():
    rollout = Rollout("chat", OLD, NEW, share=0.5)
    assert rollout.allowed(asked(), [A, B], 0.1) == [A, B]
    assert rollout.allowed(asked(), [C], 0.9) == [C]


def test_other_models_are_not_touched():
    other = candidate("d", NEW, model="small")
    rollout = Rollout("chat", OLD, NEW, share=1.0, shadow=1.0)
    assert rollout.allowed(asked(model="small"), [other], 0.0) == [other]
    assert rollout.shadowed(asked(model="small"), other, [other], 0.0) == []


def test_copies_are_of_requests_that_the_old_version_answers():
    rollout = Rollout("chat", OLD, NEW, shadow=0.05)
    assert rollout.shadowed(asked(), A, ALL, 0.04) == [C]
    assert rollout.shadowed(asked(), A, ALL, 0.05) == []
    assert rollout.shadowed(asked(), C, ALL, 0.0) == []


def test_what_gateways_count_is_added():
    one, two = Tally(), Tally()
    one.count(OLD, False, 0.1, 1.0)
    one.count(NEW, True)
    two.count(NEW, False, 0.2, 2.0)
    two.compare(NEW, Compared(1, 0, 1, 1, 0.5))
    two.compare(NEW, Compared(1, 1))
    found = together([one.told(), two.told(), two.told()._replace(counts={})])
    assert found.counts == {OLD: Counts(1, 0, 0.1, 1.0), NEW: Counts(2, 1, 0.2, 2.0)}
    assert found.compared == {NEW: Compared(4, 2, 2, 2, 1.0)}
