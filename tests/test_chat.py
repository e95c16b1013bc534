"""Takes a small HTTP server that streams, proves what the terminal chat sends and shows."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from raylm.chat import chat

KEY = "right"


class Endpoint(BaseHTTPRequestHandler):
    """Answers a chat by the number of messages it was sent; breaks on command."""

    seen: list = []

    def log_message(self, *_):
        pass

    def reply(self, status, body):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def refused(self):
        if self.headers["authorization"] == f"Bearer {KEY}":
            return False
        self.reply(401, {"error": {"message": "no", "type": "authentication_error", "param": None, "code": "invalid_api_key"}})
        return True

    def do_GET(self):
        if not self.refused():
            self.reply(200, {"object": "list", "data": [{"id": "tiny", "object": "model", "created": 0, "owned_by": "us"}]})

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.refused():
            return
        self.seen.append(asked)
        if asked["messages"][-1]["content"] == "too long":
            self.reply(400, {"error": {"message": "prompt has 9 tokens too many", "type": "x", "param": None, "code": 400}})
            return
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        words = [f"{len(asked['messages'])}", " messages", " ünïcode"]
        for word in words:
            chunk = {
                "id": "1",
                "object": "chat.completion.chunk",
                "created": 0,
                "model": "tiny",
                "choices": [{"index": 0, "delta": {"content": word}, "finish_reason": None}],
            }
            self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
        if asked["messages"][-1]["content"] == "break":
            self.wfile.write(b'data: {"error": {"message": "engine died", "code": 500}}\n\n')
        self.wfile.write(b"data: [DONE]\n\n")


@pytest.fixture
def url():
    Endpoint.seen = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()
    thread.join(timeout=5)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def talk(url, text, *, key=KEY, live=False, **options):
    said = []
    code = chat(url, key, lines=(Terminal if live else io.StringIO)(text), say=said.append, **options)
    return code, "".join(said)


def test_lines_are_answered_with_the_conversation_so_far(url):
    assert talk(url, "one\n\ntwo\n") == (0, "1 messages ünïcode\n3 messages ünïcode\n")
    assert [m["content"] for m in Endpoint.seen[1]["messages"]] == ["one", "1 messages ünïcode", "two"]
    assert Endpoint.seen[0]["model"] == "tiny"
    assert "temperature" not in Endpoint.seen[0]


def test_a_last_line_without_a_newline_counts(url):
    assert talk(url, "one")[1] == "1 messages ünïcode\n"


def test_new_forgets_and_quit_ends(url):
    code, said = talk(url, "one\n/new\ntwo\n/quit\nthree\n", live=True, temperature=0.0)
    assert code == 0
    assert said.count("1 messages") == 2
    assert "next: raylm chat" in said
    assert len(Endpoint.seen) == 2
    assert Endpoint.seen[0]["temperature"] == 0.0


def test_refusals_are_one_sentence_and_leave_no_trace_in_the_history(url):
    code, said = talk(url, "too long\none\n")
    assert code == 1
    assert said == "The endpoint refused (400): prompt has 9 tokens too many\n1 messages ünïcode\n"


def test_a_stream_that_breaks_off_is_said(url):
    code, said = talk(url, "break\none\n")
    assert code == 1
    assert "engine died" in said
    assert said.endswith("\n1 messages ünïcode\n")


def test_a_wrong_key_and_a_dead_address(url):
    assert talk(url, "one\n", key="wrong") == (
        1,
        f"{url} does not accept this key; it lies in the file `key` of the endpoint's artifact.\n",
    )
    dead = "http://127.0.0.1:9/v1"
    assert talk(dead, "one\n") == (1, f"Nothing answers at {dead}; is the endpoint running?\n")


def test_it_imports_neither_torch_nor_ray(url):
    script = (
        "import sys, raylm.chat as c; code = c.chat(sys.argv[1], 'right'); "
        "print(sorted({'torch', 'ray', 'vllm', 'transformers'} & set(sys.modules))); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", script, url], input="hi\n", capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "1 messages ünïcode\n[]\n", "")
