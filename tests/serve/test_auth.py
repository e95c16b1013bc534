"""The front door alone: by plain ASGI calls who is let in and what those outside hear."""

from __future__ import annotations

import asyncio
import json

import pytest

from raylm.serve.auth import KEYED
from raylm.serve.door import DTYPE, SERVED, Entry, FrontDoor
from raylm.serve.keys import KeyRing, key_digest

KEY = "a-key-that-is-long"
SAYS = {SERVED: "f00d", DTYPE: "bfloat16"}


async def inside(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"inside"})


def call(path, *authorization, key: str | None = KEY, method: str | None = None, kind="http"):
    sent = []

    async def send(message):
        sent.append(message)

    first = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive():
        if not first:
            await asyncio.Event().wait()
        return first.pop()

    scope = {
        "type": kind,
        "method": method or KEYED.get(path, "GET"),
        "path": path,
        "headers": [(b"authorization", value.encode()) for value in authorization],
    }
    asyncio.run(FrontDoor(inside, Entry(KeyRing(key_digest(key)) if key else None, SAYS))(scope, receive, send))
    return sent


def status(sent):
    return sent[0]["status"]


def error(sent):
    return json.loads(sent[1]["body"])["error"]


@pytest.mark.parametrize("path", [*sorted(KEYED), "/v1/models/raylm", "/v1/models/org/name"])
def test_every_listed_route_asks_for_the_key(path):
    assert status(call(path)) == 401
    assert status(call(path, "Bearer wrong")) == 401
    assert status(call(path, f"Bearer {KEY}")) == 200


@pytest.mark.parametrize(
    "header", [KEY, f"Basic {KEY}", f"Bearer {KEY}x", "Bearer ", "Bearer", "", f"Bearer {KEY[:-1]}", "Bearer é"]
)
def test_a_key_in_another_form_is_no_key(header):
    refused = call("/v1/models", header)
    assert status(refused) == 401
    assert error(refused)["code"] == "invalid_api_key"
    assert KEY not in refused[1]["body"].decode()
    assert (b"www-authenticate", b"Bearer") in refused[0]["headers"]


def test_two_keys_are_no_key():
    assert status(call("/v1/models", f"Bearer {KEY}", "Bearer wrong")) == 401


def test_the_scheme_is_read_without_case():
    assert status(call("/v1/models", f"bearer {KEY}")) == 200


def test_an_answer_says_which_weights_it_is_from():
    for answer in (call("/v1/models", f"Bearer {KEY}"), call("/v1/models")):
        assert {(b"x-raylm-served", b"f00d"), (b"x-raylm-dtype", b"bfloat16")} <= set(answer[0]["headers"])


@pytest.mark.parametrize(("path", "method"), [("/v1/models", "POST"), ("/v1/completions", "GET"), ("/v1/models/raylm", "DELETE")])
def test_another_method_is_said_to_those_who_have_the_key(path, method):
    refused = call(path, f"Bearer {KEY}", method=method)
    assert status(refused) == 405
    assert error(refused)["code"] == "method_not_allowed"
    assert any(name == b"allow" for name, _ in refused[0]["headers"])
    assert status(call(path, method=method)) == 401


def test_health_is_open():
    assert status(call("/health", method="GET")) == 200


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
        "/classify",
        "/v1/rerankx",
    ],
)
def test_what_is_not_listed_is_not_there(path):
    refused = call(path, f"Bearer {KEY}")
    if path.startswith("/v1/models/"):
        # the model route takes any name; Starlette does not walk up on `..`
        assert status(refused) == 200
        return
    assert status(refused) == 404
    assert set(error(refused)) == {"message", "type", "param", "code"}
    # without a key nobody learns which routes exist
    assert status(call(path)) == 401


def test_without_a_key_the_list_still_holds():
    assert status(call("/v1/models", key=None)) == 200
    assert status(call("/pause", key=None)) == 404


def test_websockets_are_closed():
    assert call("/v1/realtime", f"Bearer {KEY}", kind="websocket") == [{"type": "websocket.close", "code": 1008}]
