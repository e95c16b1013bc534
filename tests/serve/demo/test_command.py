"""`raylm demo`: which endpoint it talks to, and what it refuses."""

from __future__ import annotations

import argparse
import socket

import pytest

from raylm import cli
from raylm.core.artifact import Endpoint, Report
from raylm.core.errors import ArtifactError, ConfigError
from raylm.serve.demo import command
from raylm.serve.demo.places import SECOND, Served, base
from tests.stages import context

KEY = "a-key-of-the-endpoint"


@pytest.fixture
def endpoint(tmp_path):
    (tmp_path / "key").write_text(KEY + "\n")
    facts = {"url": "http://127.0.0.1:8000/v1", "model_name": "mine", "key_file": str(tmp_path / "key")}
    return context(tmp_path, "endpoint").commit(Endpoint, facts=facts)


def test_a_folder_knows_address_key_and_model(endpoint):
    assert command.target(endpoint.uri, "RAYLM_API_KEY") == ("http://127.0.0.1:8000/v1", KEY, "mine")


def test_a_url_gets_the_key_of_its_own_variable(monkeypatch):
    monkeypatch.setenv("RAYLM_API_KEY", "first")
    monkeypatch.setenv("RAYLM_API_KEY" + SECOND, "second")
    assert command.target("http://x:1", "RAYLM_API_KEY") == ("http://x:1/v1", "first", None)
    assert command.target("http://x:1/v1/", "RAYLM_API_KEY" + SECOND) == ("http://x:1/v1", "second", None)
    assert base(" https://host/a/v1/ ") == "https://host/a/v1"


def test_what_is_no_endpoint_is_refused(tmp_path):
    report = context(tmp_path, "report").commit(Report, facts={})
    with pytest.raises(ArtifactError, match="a demo needs an Endpoint, this is a Report"):
        command.target(report.uri, "RAYLM_API_KEY")


def test_the_page_gets_its_own_secrets_and_no_more(monkeypatch):
    monkeypatch.setenv("RAYLM_API_KEY", "of-another-endpoint")
    monkeypatch.setenv("RAYLM_API_KEY_2", "of-a-third")
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    asked = argparse.Namespace(host="127.0.0.1", port=7860)
    made = command._variables(command.Target("http://x:1/v1", KEY, "mine"), None, asked)
    assert (made["RAYLM_ENDPOINT"], made["RAYLM_API_KEY"], made["RAYLM_MODEL"]) == ("http://x:1/v1", KEY, "mine")
    assert not {"RAYLM_ENDPOINT_2", "RAYLM_API_KEY_2", "PYTHONPATH"} & set(made)


def test_a_port_in_use_and_a_space_of_streamlit_are_refused_before_anything_is_made(capsys, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ConfigError, match="choose another --port"):
        command._check_port("127.0.0.1", taken.getsockname()[1])
    assert cli.main(["demo", "http://127.0.0.1:9/v1", "--space", str(tmp_path / "s"), "--streamlit"]) == 1
    assert "leave out --streamlit" in capsys.readouterr().err
    assert not (tmp_path / "s").exists()


def test_a_space_is_written_without_a_word_of_the_endpoint(endpoint, capsys, tmp_path):
    assert cli.main(["demo", endpoint.uri, "--space", str(tmp_path / "space")]) == 0
    said = capsys.readouterr().out
    assert "app.py" in said and "RAYLM_API_KEY" in said
    for path in (tmp_path / "space").rglob("*"):
        text = path.read_text() if path.is_file() else ""
        assert KEY not in text and str(tmp_path) not in text and endpoint.facts["url"] not in text.replace("8000/v1 RAYLM", "")


def test_two_endpoints_with_the_same_name_are_told_apart(monkeypatch):
    import asyncio

    from raylm.serve.demo.answers import Place
    from raylm.serve.demo.places import served
    from tests.serve.demo import scripted as fake

    with fake.scripted("tiny", "b") as one, fake.scripted("tiny") as two:
        monkeypatch.setenv("RAYLM_MODEL", "b")
        found = asyncio.run(served([Place(one.url, fake.KEY), Place(two.url, fake.KEY)]))
        assert list(found.choices) == ["b", "tiny", "tiny (second endpoint)"]
        assert found.second == "tiny (second endpoint)"
        assert found.choices["tiny (second endpoint)"].place.url == two.url
        half = asyncio.run(
            served([Place("http://127.0.0.1:9/v1", name="the endpoint"), Place(two.url, "wrong", "the second endpoint")])
        )
        assert half == Served({}, None, half.failed)
        assert half.failed == (
            "Nothing answers at the endpoint; is the endpoint running? "
            "The second endpoint does not accept this key; it lies in the file `key` of the endpoint's artifact."
        )
