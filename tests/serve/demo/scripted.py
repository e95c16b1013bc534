"""A small OpenAI endpoint that answers by script, for what talks to one: streams, probabilities, beams, failures."""

from __future__ import annotations

import contextlib
import json
import math
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEY = "right-key"
# (token, probability, alternatives)
SAID = [
    ("The", 0.97, [("A", 0.02)]),
    (" capital", 0.62, [(" city", 0.3)]),
    (" is", 0.93, [(" of", 0.05)]),
    (" **Paris**", 0.34, [(" Lyon", 0.4), ("<b>Nice</b>", 0.2)]),
    (".", 0.88, [("!", 0.1)]),
    ("\n", 0.03, [(" ", 0.9)]),
]


class Scripted(BaseHTTPRequestHandler):
    """Goes by the last question: `slow`, `hold`, `cut`, `lost` (twice, then it answers), `busy` (once), `refuse`, `image`."""

    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.server.hits += 1
        if self.allowed():
            models = [{"id": name, "object": "model", "created": 0, "owned_by": "us"} for name in self.server.models]
            self.whole(200, {"object": "list", "data": models})

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if not self.allowed():
            return
        self.server.seen.append(asked)
        question = asked["messages"][-1]["content"]
        times = sum(each["messages"][-1]["content"] == question for each in self.server.seen)
        if question == "hold":
            self.server.freed.wait(30)
            self.close_connection = True
        elif question == "refuse":
            self.refuse(400, "the prompt is too long")
        elif question == "busy" and times == 1:
            self.refuse(503, "no replica is ready", {"retry-after": "0.1"})
        elif question == "lost" and times < 3:
            self.close_connection = True
        elif asked.get("use_beam_search"):
            texts = ["the best beam", "the second <i>beam</i>", "the third beam", "the fourth beam"][: asked["n"]]
            self.completion(asked, texts)
        else:
            self.stream(asked, question)

    def allowed(self):
        if self.headers["authorization"] == f"Bearer {KEY}":
            return True
        self.refuse(401, "no", {})
        return False

    def refuse(self, status, message, headers=None):
        error = {"message": message, "type": "x", "param": None, "code": None}
        self.whole(status, {"error": error}, headers or {})

    def whole(self, status, body, headers=None):
        data = json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"content-type": "application/json", "content-length": len(data), **(headers or {})}.items():
            self.send_header(name, str(value))
        self.signed()
        self.wfile.write(data)

    def signed(self):
        self.send_header("x-raylm-served", f"fingerprint-of-{self.server.models[0]}")
        self.send_header("x-raylm-dtype", "float32")
        self.send_header("x-request-id", "r1")
        self.end_headers()

    def completion(self, asked, texts):
        logprobs = [self.logprobs(asked, [(text, 0.5, [])]) for text in texts]
        choices = [
            {"index": at, "message": {"role": "assistant", "content": text}, "finish_reason": "stop", "logprobs": logprobs[at]}
            for at, text in enumerate(texts)
        ]
        usage = {"prompt_tokens": 5, "completion_tokens": 12, "total_tokens": 17}
        body = {"id": "1", "object": "chat.completion", "created": 0, "model": asked["model"], "choices": choices, "usage": usage}
        self.whole(200, body)

    def stream(self, asked, question):
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.signed()
        self.close_connection = True
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            try:
                count = self.script(asked, question)
            except (BrokenPipeError, ConnectionResetError):
                self.server.left.set()
                raise
            if question == "cut":
                self.wfile.write(b'data: {"id": "1", "obj')
                return
            self.piece(asked, "", finish="stop")
            usage = {"prompt_tokens": 5, "completion_tokens": count, "total_tokens": 5 + count}
            self.event({**self.chunk(asked, []), "usage": usage})
            self.wfile.write(b"data: [DONE]\n\n")

    def script(self, asked, question):
        if question == "image":
            self.piece(asked, f"look: ![x]({self.server.trap}/pixel.png) <img src='{self.server.trap}/tag.png'>")
            return 1
        self.piece(asked, f"({asked['model']}, {len(asked['messages'])} messages) ", 0.5)
        said = SAID * (200 if question == "slow" else 5 if question == "long" else 1)
        for token, probability, others in said:
            time.sleep(0.05 if question == "slow" else self.server.pause_s)
            self.piece(asked, token, probability, others)
        return len(said) + 1

    def piece(self, asked, text, probability=1.0, others=(), finish=None):
        logprobs = self.logprobs(asked, [(text, probability, others)]) if text else None
        self.event(self.chunk(asked, [{"index": 0, "delta": {"content": text}, "finish_reason": finish, "logprobs": logprobs}]))

    def logprobs(self, asked, tokens):
        if not asked.get("logprobs"):
            return None
        content = []
        for text, probability, others in tokens:
            top = sorted([(text, probability), *others], key=lambda pair: -pair[1])[: asked["top_logprobs"]]
            content.append({**self.token(text, probability), "top_logprobs": [self.token(*pair) for pair in top]})
        return {"content": content}

    def token(self, text, probability):
        return {"token": text, "logprob": math.log(probability), "bytes": list(text.encode())}

    def chunk(self, asked, choices):
        return {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": asked["model"], "choices": choices}

    def event(self, chunk):
        self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
        self.wfile.flush()


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, models: tuple[str, ...], pause_s: float) -> None:
        super().__init__(("127.0.0.1", 0), Scripted)
        self.models, self.pause_s = models, pause_s
        self.seen: list[dict] = []
        self.left = threading.Event()
        """A client that left in the middle of an answer."""
        self.hits = 0
        """GETs, of whom it may be."""
        self.freed = threading.Event()
        """Set where held questions are given up."""
        self.trap = "http://127.0.0.1:9"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


@contextlib.contextmanager
def scripted(*models: str, pause_s: float = 0.0) -> Iterator[Server]:
    server = Server(models or ("tiny",), pause_s)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.freed.set()
        server.shutdown()
        server.server_close()
        thread.join(timeout=5)


if __name__ == "__main__":
    with scripted("tiny", "tiny-dpo", pause_s=0.1) as one:
        print(one.url, flush=True)
        time.sleep(3600)
