"""The terminal chat: what it sends to a small streaming HTTP server, and what it shows."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import select
import stat
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

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


class Pty:
    """`chat` in a real terminal: its line editor is what keeps a paste together."""

    def __init__(self, url, *options):
        # no pty.fork: what threads of this process hold when it forks, its copy waits for in vain
        script = (
            "import fcntl, sys, termios; from pathlib import Path; fcntl.ioctl(0, termios.TIOCSCTTY, 0); import raylm.chat as c; "
            "sys.exit(c.chat(sys.argv[1], 'right', history=Path(sys.argv[2]) if sys.argv[2:] else None))"
        )
        self.terminal, inner = pty.openpty()
        self.child = subprocess.Popen(
            [sys.executable, "-c", script, url, *options],
            stdin=inner, stdout=inner, stderr=inner, start_new_session=True,
            env={**os.environ, "TERM": "xterm", "INPUTRC": "/dev/null"},
        )  # fmt: skip
        os.close(inner)
        self.seen = bytearray()

    def until(self, text):
        while (at := self.seen.find(text.encode())) < 0:
            assert select.select([self.terminal], [], [], 60)[0], f"{text!r} does not come after {self.seen!r}"
            self.seen.extend(os.read(self.terminal, 4096))
        del self.seen[: at + len(text.encode())]

    def press(self, keys):
        if keys == b"\x03":
            # a signal that comes before the line editor waits again is heard with the next key alone
            self.settle()
        os.write(self.terminal, keys)

    def settle(self):
        """Until the chat has slept for a while: however busy the machine is, it waits for keys then."""
        asleep, until = 0, time.monotonic() + 60
        while asleep < 6 and time.monotonic() < until:
            state = Path(f"/proc/{self.child.pid}/stat").read_text().rpartition(")")[2].split()[0]
            asleep = asleep + 1 if state == "S" else 0
            time.sleep(0.05)

    def ended(self):
        code = self.child.wait(timeout=60)
        os.close(self.terminal)
        return code


def test_a_paste_is_one_question_and_ctrl_c_ends_an_answer_or_a_half_typed_line(url):
    typed = Pty(url)
    until, press = typed.until, typed.press
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
    os.write(typed.terminal, b"\x03")
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
    assert typed.ended() == 0
    assert [asked["messages"][-1]["content"] for asked in Endpoint.seen] == ["one\ntwo\nthree", "slow", "again"]


def test_lines_of_one_question_its_history_and_what_is_asked_again(url, tmp_path):
    kept = tmp_path / "state" / "chat_history"
    typed = Pty(url, str(kept))
    until, press = typed.until, typed.press
    until("> ")
    press(b'"""one\r')
    until(". ")
    press(b"\r")
    until(". ")
    press(b'two"""\r')
    until("1 messages ünïcode")
    until("first word after")
    until("> ")
    press(b"three\\\r")
    until(". ")
    press(b"four\r")
    until("3 messages ünïcode")
    until("> ")
    # a block that is thought better of
    press(b'"""half\r')
    until(". ")
    press(b"\x03")
    until("> ")
    press(b"/retry\r")
    until("3 messages ünïcode")
    until("> ")
    press(b"break\r")
    until("engine died; /retry asks it again)")
    until("> ")
    press(b"\x04")
    until("next: raylm chat")
    assert typed.ended() == 1
    assert [asked["messages"][-1]["content"] for asked in Endpoint.seen] == ["one\n\ntwo", "three\nfour", "three\nfour", "break"]
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert [json.loads(line) for line in kept.read_text().splitlines()] == ["one\n\ntwo", "three\nfour", "/retry", "break"]

    again = Pty(url, str(kept))
    again.until("> ")
    again.press(b"\x1b[A\x1b[A\x1b[A\r")
    again.until("1 messages ünïcode")
    again.until("> ")
    again.press(b"\x04")
    assert again.ended() == 0
    assert Endpoint.seen[-1]["messages"][-1]["content"] == "three\nfour"


def test_commands_set_show_and_save(url, tmp_path):
    file = tmp_path / "talk.json"
    code, said = talk(
        url,
        f"/help\n/system be brief\n/set temperature=0.5 top_k=3\none\n/set top_k=default\n/model\n/save {file}\n/reset\ntwo\n",
        live=True,
    )
    assert code == 0
    assert all(f"/{name}" in said for name in ("help", "system", "set", "model", "retry", "reset", "save", "quit"))
    assert "system prompt: be brief\nset: temperature=0.5, top_k=3\n2 messages" in said
    assert "set: temperature=0.5\n* tiny\n" in said
    first, second = Endpoint.seen
    assert (first["temperature"], first["top_k"], first["messages"][0]) == (0.5, 3, {"role": "system", "content": "be brief"})
    assert "top_k" not in second and len(second["messages"]) == 2
    saved = json.loads(file.read_text())
    assert (saved["system"], saved["turns"][0]["question"]) == ("be brief", "one")
    assert KEY not in file.read_text() and stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("/sytem x", "no command /sytem; did you mean /system?"),
        ("/set temprature=1", "no setting 'temprature'"),
        ("/set temperature=9", "temperature is 9; it goes from 0 to 2"),
        ("/model other", "the endpoint lists no model 'other'; it has tiny"),
        ("/save talk.txt", "say where: /save talk.md, or /save talk.json"),
        ("/save /nowhere/talk.md", "/nowhere/talk.md cannot be made: No such file or directory"),
        ("/retry", "nothing was asked yet"),
    ],
)
def test_a_command_that_cannot_be_done_says_why_and_a_script_hears_of_it(url, typed, told):
    code, said = talk(url, f"{typed}\none\n")
    assert told in said and said.endswith("1 messages ünïcode\n")
    assert code == 1 and talk(url, f"{typed}\n", live=True)[0] == 0


def test_a_path_is_a_question(url):
    assert talk(url, "/etc/passwd, what is it?\n") == (0, "1 messages ünïcode\n")


def test_a_connection_that_is_lost_before_the_answer_is_said_and_tried_again(monkeypatch):
    from raylm.serve.demo import answers
    from tests.serve.demo.scripted import KEY, scripted

    monkeypatch.setattr(answers, "FIRST_PAUSE_S", 0.1)
    with scripted("tiny") as server:
        code, said = talk(server.url, "lost\n", key=KEY)
        assert len(server.seen) == 3
    assert code == 0
    assert said.count("Trying again") == 2 and "(tiny, 1 messages) The capital is **Paris**." in said


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


def test_what_comes_while_it_is_shown_is_shown_too():
    from raylm.chat import _Shown
    from raylm.serve.demo.answers import Answer
    from raylm.serve.demo.sampling import Sampling

    answer, said = Answer("tiny", Sampling()), []

    def show(text):
        said.append(text)
        if len(said) == 1:
            answer.text += " grows"  # in the thread that reads it

    shown, answer.text = _Shown(show, True), "it"
    shown.grow(answer)
    shown.grow(answer)
    assert "".join(said) == "it grows"
