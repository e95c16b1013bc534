"""Versions of an endpoint: kept in order, ended with a reason, found again by fingerprint; one update at a time."""

from __future__ import annotations

import pytest

from raylm.core.errors import ArtifactError, ConfigError, PlanError
from raylm.core.storage import Folder
from raylm.serve.updates.history import Ask, How, Probed, Progress, Proof, Turn, Version, Versions, now, who


@pytest.fixture
def versions(tmp_path):
    return Versions.of(Folder(tmp_path / "job" / "api"))


def version(fingerprint, how: How = "in_place", model="chat"):
    return Version(model=model, fingerprint=fingerprint, uri=f"/{fingerprint}", how=how, began=now(), by="me@here")


def ask(number, **fields):
    return Ask(**{"number": number, "by": "me", "model": "chat", "uri": "/b", "fingerprint": "bbb", "how": "in_place", **fields})


def test_versions_follow_each_other_and_models_have_their_own(versions):
    assert versions.read() == [] and versions.current("chat") is None
    versions.began(version("aaa", "start"), "")
    versions.began(version("sss", "start", "small"), "")
    versions.began(version("bbb"), "update")
    kept = versions.read()
    assert [(each.model, each.fingerprint, bool(each.ended), each.why) for each in kept] == [
        ("chat", "aaa", True, "update"),
        ("small", "sss", False, ""),
        ("chat", "bbb", False, ""),
    ]
    assert versions.current("chat") == kept[2] and versions.current("small") == kept[1]
    assert versions.uri.endswith("/job/.rollouts/api.json") and Versions.at(versions.uri).uri == versions.uri


def test_what_a_rollback_goes_to(versions):
    for name in ("aaa1", "aab2", "ccc3"):
        versions.began(version(name), "update")
    assert versions.find("chat").fingerprint == "aab2"
    assert versions.find("chat", "aaa").fingerprint == "aaa1"
    for name, why in (
        ("aa", "several versions begin with 'aa'"),
        ("ccc3", "no earlier version 'ccc3'"),
        ("aab3", "Did you mean"),
    ):
        with pytest.raises(ConfigError, match=why):
            versions.find("chat", name)
    with pytest.raises(ConfigError, match="small had no earlier version"):
        versions.find("small")


def test_one_update_at_a_time(versions):
    versions.ask(ask("1"))
    with pytest.raises(PlanError, match=r"another update is under way: chat to bbb \(not taken up yet\)"):
        versions.ask(ask("2"))
    state = Progress(number="1", model="chat", fingerprint="bbb", before="aaa", phase="canary", since=now())
    versions.tell(state)
    with pytest.raises(PlanError, match=r"another update is under way: chat to bbb \(canary\)"):
        versions.ask(ask("2"))
    versions.ask(ask("2", stop=True))
    versions.tell(state.model_copy(update={"phase": "stopped"}))
    versions.ask(ask("3"))
    assert versions.asked() == ask("3") == versions.under_way()


def test_an_endpoint_that_starts_anew_begins_with_what_its_job_says(versions):
    versions.begin([version("aaa", "start"), version("sss", "start", "small")])
    versions.began(version("bbb"), "update")
    versions.ask(ask("1"))
    versions.tell(Progress(number="1", model="chat", fingerprint="bbb", before="aaa", phase="canary", since=now()))
    versions.begin([version("aaa", "start"), version("sss", "start", "small")])
    assert versions.asked() is None and versions.under_way() is None
    at = versions.progress()
    assert at is not None and at.over and "started anew" in at.said[-1]
    kept = [(each.fingerprint, each.why) for each in versions.read()]
    assert kept == [("aaa", "update"), ("sss", ""), ("bbb", "the endpoint started anew"), ("aaa", "")]


def test_a_proof_is_what_it_was_after_the_file(versions):
    made = Proof(
        dtype="float32",
        quantized=False,
        ends=[2],
        probes=[Probed(tokens=[1, 2], logprobs=[-0.1234567890123])],
        turns=[Turn(text="hi", prompt=[1], greedy=[5], likely=[{5: -0.5, 7: -3.25}])],
    )
    versions.ask(ask("1", proof=made))
    kept = versions.asked()
    assert kept is not None and kept.proof == made


def test_a_file_that_somebody_edited_is_not_taken_for_an_empty_one(versions):
    versions.folder.make().write("api.json", "{")
    with pytest.raises(ArtifactError, match="cannot be read"):
        versions.read()
    versions.folder.write("api.asked.json", '{"number": 1}')
    with pytest.raises(ArtifactError, match="cannot be read"):
        versions.asked()
    assert "@" in who()
