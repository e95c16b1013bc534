"""What stands before the page: names of hosts, and what the browser may load."""

from __future__ import annotations

import asyncio

import pytest

from raylm.serve.demo.guard import Guard


async def _page(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/html")]})
    await send({"type": "http.response.body", "body": b"page"})


def visit(bound: str, host: str):
    sent: list[dict] = []

    async def send(message):
        sent.append(message)

    asyncio.run(Guard(_page, bound)({"type": "http", "headers": [(b"host", host.encode())]}, None, send))
    return sent[0]["status"], dict(sent[0]["headers"]), sent[1]["body"]


@pytest.mark.parametrize("host", ["127.0.0.1:7860", "localhost:7860", "LOCALHOST", "[::1]:7860", "127.0.0.1"])
def test_this_machine_comes_in_and_loads_nothing_from_elsewhere(host):
    status, headers, body = visit("127.0.0.1", host)
    assert (status, body) == (200, b"page")
    policy = headers[b"content-security-policy"].decode()
    assert "img-src 'self' data: blob:" in policy and "http" not in policy


@pytest.mark.parametrize("host", ["evil.example", "evil.example:7860", "127.0.0.1.evil.example", "", "10.0.0.1:7860"])
def test_another_name_for_this_machine_does_not(host):
    status, _, body = visit("127.0.0.1", host)
    assert (status, body) == (421, b"This page answers at 127.0.0.1 and localhost.")


def test_a_page_that_listens_on_all_addresses_has_any_name():
    assert visit("0.0.0.0", "demo.example")[0] == 200
