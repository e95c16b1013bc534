"""Who is let in by a gateway, and what those outside hear."""

from __future__ import annotations

import asyncio

import pytest

from raylm.serve.auth import KEYED
from raylm.serve.keys import key_digest
from tests.serve.gateway.running import error, plain, running
from tests.serve.scripted_replica import Script

KEY = "a-key-that-is-long"
BODY = b'{"model": "chat", "prompt": "x", "messages": [], "max_tokens": 1}'


def call(path, *authorization, key: str | None = KEY, method: str | None = None, name="authorization"):
    """Status, headers and body of one request."""

    async def run():
        async with running(Script(), key_digest=key_digest(key) if key else None) as one:
            one.replicas[0].serves_all = True
            sent = [(name, value) for value in authorization]
            kind = method or KEYED.get(path, "GET")
            body = BODY if kind == "POST" else b""
            return await plain(one.port, kind, path, ("content-type", "application/json"), *sent, body=body)

    return asyncio.run(run())


@pytest.mark.parametrize("path", [*sorted(KEYED), "/v1/models/chat", "/v1/models/org/name"])
def test_every_listed_route_asks_for_the_key(path):
    assert call(path)[0] == 401
    assert call(path, "Bearer wrong")[0] == 401
    status, _, body = call(path, f"Bearer {KEY}")
    assert status == 200 or (path == "/v1/models/org/name" and error(body)["code"] == "model_not_found")


@pytest.mark.parametrize(
    "header", [KEY, f"Basic {KEY}", f"Bearer {KEY}x", "Bearer ", "Bearer", "", f"Bearer {KEY[:-1]}", "Bearer é"]
)
def test_a_key_in_another_form_is_no_key(header):
    status, headers, body = call("/v1/models", header)
    assert status == 401 and error(body)["code"] == "invalid_api_key"
    assert KEY not in body.decode() and headers["www-authenticate"] == "Bearer"


def test_two_keys_are_no_key():
    assert call("/v1/models", f"Bearer {KEY}", "Bearer wrong")[0] == 401
    assert call("/v1/models", f"Bearer {KEY}", f"Bearer {KEY}")[0] == 401


def test_the_scheme_is_read_without_case():
    assert call("/v1/models", f"bearer {KEY}")[0] == 200


def test_an_answer_says_which_weights_it_is_from():
    for answer in (call("/v1/models", f"Bearer {KEY}"), call("/v1/models"), call("/v1/completions", f"Bearer {KEY}")):
        assert (answer[1]["x-raylm-served"], answer[1]["x-raylm-dtype"]) == ("f00d", "float32")
        assert answer[1]["x-request-id"]


@pytest.mark.parametrize(("path", "method"), [("/v1/models", "POST"), ("/v1/completions", "GET"), ("/v1/models/chat", "DELETE")])
def test_another_method_is_said_to_those_who_have_the_key(path, method):
    status, headers, body = call(path, f"Bearer {KEY}", method=method)
    assert (status, error(body)["code"]) == (405, "method_not_allowed") and headers["allow"]
    assert call(path, method=method)[0] == 401


def test_health_is_open():
    assert call("/health", method="GET")[0] == 200


@pytest.mark.parametrize(
    "path",
    [
        "/pause",
        "/v1/load_lora_adapter",
        "/collective_rpc",
        "/invocations",
        "/docs",
        "/openapi.json",
        "/v1/models/../../pause/x/",
        "/v1/modelsx",
        "//v1/models",
        "/-/routes",
        "/v1/audio/speech",
        "/%2e%2e/pause",
    ],
)
def test_what_is_not_listed_is_not_there(path):
    status, _, body = call(path, f"Bearer {KEY}")
    # the model route takes any name: it walks up on no `..`, and there is no such model
    assert (status, error(body)["code"]) == (404, "model_not_found" if path.startswith("/v1/models/") else "unknown_url")
    # without a key nobody learns which routes exist
    assert call(path)[0] == 401


def test_without_a_key_the_list_still_holds():
    assert call("/v1/models", key=None)[0] == 200
    assert call("/pause", key=None)[0] == 404


def test_clients_of_anthropics_shape_have_a_header_of_their_own():
    assert call("/v1/messages", KEY, name="x-api-key")[0] == 200
    assert call("/v1/completions", KEY, name="x-api-key")[0] == 401
