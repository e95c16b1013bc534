"""A client against a real HTTP server: what it tries again, how long it waits, and how much it asks at a time."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest

from raylm.core.errors import ConfigError
from raylm.inference.client import Client, Reply, Retry, retry_after


class Handler(BaseHTTPRequestHandler):
    """Answers with the question; `busy` is refused once, with half a second to wait; `status N` always."""

    def log_message(self, *args):
        pass

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["messages"][0]["content"]
        server, status, headers = self.server, 200, {}
        with server.lock:
            server.asked.append(asked)
            server.running += 1
            server.most = max(server.most, server.running)
        time.sleep(0.02)
        with server.lock:
            server.running -= 1
        if asked.startswith("busy") and server.asked.count(asked) == 1:
            status, headers = 429, {"Retry-After": "0.5"}
        elif asked.startswith("status"):
            status = int(asked.split()[1])
        message = {"index": 0, "message": {"role": "assistant", "content": asked}, "finish_reason": "stop"}
        made = {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [message]}
        data = json.dumps(made if status == 200 else {"error": {"message": f"said {status}"}}).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture(scope="module")
def server():
    held = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    held.daemon_threads = True
    held.lock, held.asked, held.running, held.most = threading.Lock(), [], 0, 0
    threading.Thread(target=held.serve_forever, daemon=True).start()
    yield held
    held.shutdown()
    held.server_close()


def client(server, **table):
    return Client(f"http://127.0.0.1:{server.server_port}/v1", "m", **{"deadline_s": 5.0} | table)


def question(text):
    return [{"role": "user", "content": text}]


def test_a_wish_of_the_endpoint_is_heeded(server):
    began = time.monotonic()
    with client(server) as held:
        assert held.ask(question("busy sync")) == Reply("busy sync")
    assert time.monotonic() - began >= 0.5
    assert asyncio.run(client(server).ask_async(question("busy async"))) == Reply("busy async")
    assert server.asked.count("busy sync") == server.asked.count("busy async") == 2


def test_what_no_other_try_would_change(server):
    with client(server, hint="check the key") as held:
        assert held.ask(question("status 400")).failed == "refused"
        with pytest.raises(ConfigError, match=r"(?s)said 401.*check the key"):
            held.ask(question("status 401"))
    assert server.asked.count("status 400") == server.asked.count("status 401") == 1


def test_many_are_answered_in_order_and_no_more_at_a_time_than_allowed(server):
    texts = [str(number) for number in range(30)]

    async def together():
        held = client(server, concurrency=3)
        return await asyncio.gather(*(held.ask_async(question(text)) for text in texts))

    for found in ([*client(server, concurrency=3).ask_each(map(question, texts))], asyncio.run(together())):
        assert [reply.text for reply in found] == texts
        assert 2 <= server.most <= 3


def test_pauses_double_and_end_at_the_deadline():
    retry = Retry(60.0)
    found = [retry.pause() for _ in range(7)]
    assert all(0.75 * wanted <= pause <= wanted for pause, wanted in zip(found, (0.5, 1, 2, 4, 8, 10, 10), strict=True))
    assert retry.pause(7.0) == 7.0 and retry.pause(61.0) is None


@pytest.mark.parametrize("wish, least, most", [("3", 3, 3), ("in a minute", 40, 61), ("soon", None, None)])
def test_retry_after_is_seconds_or_a_date(wish, least, most):
    class Refusal:
        class response:
            headers = {"retry-after": formatdate(time.time() + 60) if wish == "in a minute" else wish}

    found = retry_after(Refusal())
    assert found is None if least is None else least <= found <= most


def test_a_wish_that_is_no_time_is_none():
    def wished(value):
        return retry_after(SimpleNamespace(response=SimpleNamespace(headers={"retry-after": value})))

    assert [wished(value) for value in ("3", "-1", "inf", "nan", "1e999", "soon")] == [3.0, 0.0, None, None, None, None]
