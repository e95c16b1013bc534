"""The terminal chat: what it sends to a small streaming HTTP server, and what it shows."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from raylm.chat import chat, harmless

KEY = "right"
# a title, a cleared screen, C1's form of the same, a line gone over, text turned around, hidden tags, half a surrogate pair
ESCAPES = "\x1b]0;title\x07\x1b[2J\x9b2J\rover\u202egnp\u2066\U000e0041\ud800 tab\tend\n\U0001f469\u200d\U0001f4bb"


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
        question = asked["messages"][-1]["content"]
        for word in (f"{len(asked['messages'])}", " messages", " ünïcode"):
            self.piece(word)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while question == "slow":
                self.piece("word ")
                time.sleep(0.05)
        if question == "slow":
            return
        if question == "cut":
            self.wfile.write(b'data: {"id": "1", "obj')
            return
        if question == "break":
            self.wfile.write(b'data: {"error": {"message": "engine died", "code": 500}}\n\n')
        if question == "escapes":
            self.piece(ESCAPES)
        self.piece("", "stop")
        self.wfile.write(b"data: [DONE]\n\n")

    def piece(self, text, finish_reason=None):
        choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish_reason}
        chunk = {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": "tiny", "choices": [choice]}
        self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())


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


def test_a_connection_that_ends_before_the_answer_does_is_said(url):
    code, said = talk(url, "cut\none\n")
    assert code == 1
    told = f"({url} broke off in the middle of the answer; the question is not kept)"
    assert said.splitlines() == ["1 messages ünïcode", told, "1 messages ünïcode"]


def test_what_a_terminal_would_obey_is_shown_as_text(url):
    said = talk(url, "escapes\n")[1]
    shown = "␛]0;title␇␛[2J\\x9b2J␍over\\u202egnp\\u2066\\U000e0041\\ud800 tab\tend\n\U0001f469\u200d\U0001f4bb"
    assert said == f"1 messages ünïcode{shown}\n"
    assert harmless("all that is plain: äöü 東京 🙂 עברית\n\t") == "all that is plain: äöü 東京 🙂 עברית\n\t"
    obeyed = {chr(code) for code in (*range(9), *range(11, 32), *range(127, 160))}
    assert not obeyed & set(harmless("".join(sorted(obeyed))))


def test_a_paste_is_one_question_and_ctrl_c_ends_an_answer_or_a_half_typed_line(url):
    """In a real terminal: its line editor is what keeps a paste together."""
    import os
    import pty
    import select

    # no pty.fork: what threads of this process hold when it forks, its copy waits for in vain
    script = (
        "import fcntl, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); import raylm.chat as c; "
        "sys.exit(c.chat(sys.argv[1], 'right'))"
    )
    terminal, inner = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-c", script, url],
        stdin=inner, stdout=inner, stderr=inner, start_new_session=True,
        env={**os.environ, "TERM": "xterm", "INPUTRC": "/dev/null"},
    )  # fmt: skip
    os.close(inner)
    seen = bytearray()

    def until(text):
        while (at := seen.find(text.encode())) < 0:
            assert select.select([terminal], [], [], 120)[0], f"{text!r} does not come after {seen!r}"
            seen.extend(os.read(terminal, 4096))
        del seen[: at + len(text.encode())]

    def press(keys):
        os.write(terminal, keys)

    until("> ")
    press(b"\x1b[200~one\ntwo\nthree\n\x1b[201~")
    press(b"\r")
    until("1 messages ünïcode")
    until("> ")
    press(b"half")
    until("half")
    press(b"\x03")
    until("> ")
    press(b"slow\r")
    until("word")
    press(b"\x03")
    until("(stopped)")
    until("> ")
    press(b"again\r")
    until("3 messages ünïcode")
    until("> ")
    press(b"\x03")
    until("(Ctrl-C again or Ctrl-D leaves)")
    until("> ")
    press(b"\x03")
    until("next: raylm chat")
    assert child.wait(timeout=60) == 0
    os.close(terminal)
    assert [asked["messages"][-1]["content"] for asked in Endpoint.seen] == ["one\ntwo\nthree", "slow", "again"]


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
