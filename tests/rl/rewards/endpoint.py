"""An OpenAI-compatible endpoint on this machine that answers as a test says."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Endpoint(ThreadingHTTPServer):
    """`answer(request)` gives the reply's text, or a status to refuse with."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, answer: Callable[[dict[str, Any]], str | int]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer, self.asked, self.lock = answer, [], threading.Lock()
        self.running = self.most = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Endpoint

    def log_message(self, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.asked.append(request)
            self.server.running += 1
            self.server.most = max(self.server.most, self.server.running)
        made = self.server.answer(request)
        with self.server.lock:
            self.server.running -= 1
        message = {"index": 0, "message": {"role": "assistant", "content": made}, "finish_reason": "stop"}
        good = {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [message]}
        data = json.dumps(good if isinstance(made, str) else {"error": {"message": f"said {made}"}}).encode()
        self.send_response(200 if isinstance(made, str) else made)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(data)), "Retry-After": "0.1"}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def endpoint(answer: Callable[[dict[str, Any]], str | int]) -> Iterator[Endpoint]:
    held = Endpoint(answer)
    threading.Thread(target=held.serve_forever, daemon=True).start()
    try:
        yield held
    finally:
        held.shutdown()
        held.server_close()
