"""wllama: llama.cpp as WebAssembly, in a headless Chromium: what reads a GGUF file in a browser."""

from __future__ import annotations

import http.server
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import Any, ClassVar, Literal

from raylm.compress.consumers import npm
from raylm.compress.consumers.consumer import UNTOLD, Consumer, Prompt, Ran
from raylm.compress.consumers.xllamacpp import NUM_LOGPROBS, context_length, gguf_in, likeliest
from raylm.core.errors import ArtifactError

PAGE = Path(__file__).with_suffix(".html")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
MOST_BYTES = 2_000_000_000
"""What a page can hold in one piece."""


class Wllama(Consumer):
    """The npm package (https://github.com/ngxson/wllama), served from this machine: the page asks no other.

    It tells how many tokens a prompt has and not which; the ids of answers come with their log-probabilities.
    """

    reads: ClassVar[tuple[str, ...]] = ("gguf",)

    kind: Literal["wllama"] = "wllama"

    def installed(self) -> str:
        if not any(map(shutil.which, BROWSERS)):
            return f"there is none of {', '.join(BROWSERS)} on this machine"
        return npm.missing("@wllama/wllama")

    def refuses(self, folder: Path) -> str:
        """Why the program reads no such files as lie in `folder`, "" where it does."""
        return "" if gguf_in(folder).stat().st_size <= MOST_BYTES else "a page in a browser holds no file above 2 GB in one piece"

    def version(self) -> str:
        return npm.version_of("@wllama/wllama")

    def run(self, folder: Path, prompts: list[Prompt], max_tokens: int) -> list[Ran]:
        asked = {
            "context": context_length(prompts, max_tokens),
            "logprobs": NUM_LOGPROBS,
            "max_tokens": max_tokens,
            "prompts": prompts,
        }
        packages = npm.folder() / "node_modules" / "@wllama" / "wllama" / "esm"
        with _Page(asked, gguf_in(folder), packages) as page, tempfile.TemporaryDirectory(prefix="raylm-wllama-") as profile:
            said = json.loads(_browse(page, profile, self.deadline_s))
        if "wrong" in said:
            raise ArtifactError(f"wllama: {said['wrong'][:400]}")
        return [_answer(each) for each in said["answers"]]


class _Page:
    """A server on the loopback interface: the page, the package, the file, and the place where answers are sent."""

    def __init__(self, asked: dict[str, Any], file: Path, packages: Path) -> None:
        self.said, self.answers = threading.Event(), b""
        texts = {"/": (PAGE.read_bytes(), "text/html"), "/asked.json": (json.dumps(asked).encode(), "application/json")}
        page = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path in texts:
                    self._send(*texts[self.path])
                elif self.path == "/model.gguf":
                    self._send(file.read_bytes(), "application/octet-stream")
                elif (found := (packages / self.path.removeprefix("/wllama/")).resolve()).is_relative_to(packages.resolve()):
                    kind = "application/wasm" if found.suffix == ".wasm" else "text/javascript"
                    self._send(found.read_bytes(), kind) if found.is_file() else self.send_error(404)
                else:
                    self.send_error(404)

            def do_POST(self) -> None:
                page.answers = self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(204)
                self.end_headers()
                page.said.set()

            def _send(self, content: bytes, kind: str) -> None:
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/"

    def __enter__(self) -> _Page:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def _browse(page: _Page, profile: str, deadline_s: float) -> bytes:
    """What the page sends back."""
    browser = next(found for name in BROWSERS if (found := shutil.which(name)))
    quiet = ["--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking"]
    # Chromium's sandbox does not start for root
    alone = ["--no-sandbox"] if os.geteuid() == 0 else []
    command = [browser, *quiet, *alone, f"--user-data-dir={profile}", page.url]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        # the parent's deadline is the same; this one leaves time for words
        if not page.said.wait(deadline_s - 10):
            raise ArtifactError("the page in the browser did not answer")
        return page.answers
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _answer(said: dict[str, Any]) -> Ran:
    if "wrong" in said:
        return Ran(None, UNTOLD, None, "")
    (choice,) = said["choices"]
    steps, usage = (choice.get("logprobs") or {}).get("content") or [], said["usage"]
    text = choice["text"] if "text" in choice else choice["message"]["content"] or ""
    if len(steps) != usage["completion_tokens"]:
        # steps that end within a character are left out: what was said is known by its text alone
        return Ran(None, usage["prompt_tokens"], None, text)
    tokens = [step["id"] for step in steps]
    told = likeliest(len(steps), {at: step["top_logprobs"] for at, step in enumerate(steps)})
    ended = choice["finish_reason"] == "stop"
    return Ran(None, usage["prompt_tokens"], tokens[:-1] if ended else tokens, text, told)
