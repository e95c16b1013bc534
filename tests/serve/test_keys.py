"""Keys of an endpoint: made, found, limited to models and days, revoked while a door stands."""

from __future__ import annotations

import asyncio
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from raylm.cli import main
from raylm.core.artifact import Checkpoint, Endpoint
from raylm.core.errors import ArtifactError, ConfigError
from raylm.core.storage import Folder
from raylm.serve import keys
from raylm.serve.gateway.settings import ModelFacts
from raylm.serve.keys import KeyFile, KeyRing, add, key_digest, revoke
from tests.serve.gateway.running import COMPLETIONS, error, running
from tests.serve.scripted_replica import Script
from tests.stages import context


@pytest.fixture
def file(tmp_path):
    return KeyFile.of(Folder(tmp_path / "job" / "api"))


def found(ring: KeyRing, value: str) -> str | None:
    one = asyncio.run(ring.find(key_digest(value)))
    return one.name if one else None


def test_keys_are_found_by_their_digest_and_lost_when_they_are_revoked(file, monkeypatch):
    monkeypatch.setattr(keys, "LOOK_S", 0.0)
    ring = KeyRing(key_digest("the run's"), file.uri)
    assert (found(ring, "the run's"), found(ring, "another"), found(ring, "")) == ("owner", None, None)
    value = add(file, "alice")
    assert value.startswith("sk-") and found(ring, value) == "alice"
    assert value not in file.folder.read(file.name).decode()
    revoke(file, "alice")
    assert found(ring, value) is None and found(ring, "the run's") == "owner"
    # the name is free again; the old key stays shut
    assert found(ring, add(file, "alice")) == "alice" and found(ring, value) is None


def test_what_was_read_is_believed_for_a_second(file, monkeypatch):
    ring = KeyRing(None, file.uri)
    value = add(file, "alice")
    assert found(ring, value) == "alice"
    revoke(file, "alice")
    assert found(ring, value) == "alice"
    monkeypatch.setattr(keys, "LOOK_S", 0.0)
    assert found(ring, value) is None


def test_a_file_that_cannot_be_read_lets_in_whom_it_did(file, monkeypatch):
    monkeypatch.setattr(keys, "LOOK_S", 0.0)
    ring, value = KeyRing("0" * 64, file.uri), add(file, "alice")
    assert found(ring, value) == "alice"
    file.folder.write(file.name, "{")
    assert found(ring, value) == "alice" and found(ring, "other") is None
    with pytest.raises(ArtifactError, match="cannot be read"):
        file.read()


def test_names_are_taken_once_and_days_end(file):
    value = add(file, "bob", days=2)
    with pytest.raises(ConfigError, match="a key is called 'bob' already"):
        add(file, "bob")
    with pytest.raises(ConfigError, match="a key is called 'owner' already"):
        add(file, "owner")
    with pytest.raises(ConfigError, match="Did you mean 'bob'"):
        revoke(file, "bop")
    for days in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="valid for some days"):
            add(file, "dora", days=days)
    (key,) = file.read()
    now = datetime.now(UTC)
    assert key.valid(now + timedelta(days=1)) and not key.valid(now + timedelta(days=3)) and key.digest == key_digest(value)


def test_a_key_of_some_models_asks_no_others(file):
    value = add(file, "carol", models=["small"])

    async def run():
        models = ModelFacts("small", "model"), ModelFacts("large", "model1")
        settings = {"models": models, "names": ("small", "large"), "key_digest": key_digest("owner"), "keys_uri": file.uri}
        async with running(Script(), Script(), **settings) as one:
            for model, status in (("small", 200), ("large", 403), (None, 403)):
                asked = {"prompt": "x", "max_tokens": 1, **({"model": model} if model else {})}
                answer = await one.ask(COMPLETIONS, asked, authorization=f"Bearer {value}")
                assert answer[0] == status
            assert error(answer[2])["type"] == "permission_error"
            listed = json.loads((await one.ask("/v1/models", authorization=f"Bearer {value}"))[2])["data"]
            assert [each["id"] for each in listed] == ["small"]

    asyncio.run(run())


def test_the_command(tmp_path, capsys):
    def commit(name, kind, **facts):
        return context(tmp_path / "job", name).commit(kind, facts=facts)

    endpoint = commit("api", Endpoint, url="u", asks_key=True)
    at = endpoint.uri
    assert main(["keys", "list", at]) == 0 and "only the run's own key" in capsys.readouterr().out
    assert main(["keys", "add", at, "alice", "--model", "raylm", "--days", "1"]) == 0
    value = capsys.readouterr().out.splitlines()[0]
    assert found(KeyRing(None, KeyFile.of(endpoint.folder).uri), value) == "alice"
    assert main(["keys", "revoke", at, "alice"]) == 0
    assert main(["keys", "list", at]) == 0
    said = capsys.readouterr().out
    assert "alice" in said and "revoked" in said and value not in said
    open_door = commit("open", Endpoint, url="u", asks_key=False)
    assert main(["keys", "add", open_door.uri, "x"]) == 1
    assert main(["keys", "list", commit("model", Checkpoint).uri]) == 1
    assert "an Endpoint has keys, this is a Checkpoint" in capsys.readouterr().err


def test_keys_that_are_made_at_once_are_all_kept(file):
    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(lambda at: add(file, f"key{at}"), range(16)))
    assert {key.digest for key in file.read()} == {key_digest(value) for value in made}


def test_a_disk_that_hangs_shuts_nobody_out(tmp_path, monkeypatch):
    file = KeyFile.of(Folder(tmp_path / "job" / "api"))
    digest, hangs, read = key_digest(add(file, "alice")), threading.Event(), KeyFile.read

    async def run():
        ring = KeyRing(key_digest("k"), file.uri)
        assert await ring.find(digest)
        monkeypatch.setattr(keys, "LOOK_S", 0.0)
        monkeypatch.setattr(keys, "ANSWER_S", 0.01)
        monkeypatch.setattr(KeyFile, "read", lambda self: (hangs.wait(10), read(self))[1])
        try:
            async with asyncio.timeout(1):
                for _ in range(3):
                    assert await ring.find(digest) and await ring.find(key_digest("k")) and not await ring.find("x")
        finally:
            hangs.set()
        # it answers again: what was revoked meanwhile is refused
        revoke(file, "alice")
        monkeypatch.setattr(keys, "ANSWER_S", 5.0)
        await ring.find(digest)
        assert await ring.find(digest) is None

    asyncio.run(run())
