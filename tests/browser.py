"""A headless Chromium, driven by its DevTools protocol: real key strokes and clicks, pictures, and what it asked the network."""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CHROMIUM = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)
DEADLINE_S = 60.0


class Tab:
    """A page of the browser."""

    def __init__(self, socket: Any) -> None:
        self._socket, self._id = socket, 0
        self.requests: list[str] = []
        """URLs that the page asked for."""
        self.said: list[str] = []
        """Errors on its console."""
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """One call of the protocol; events that come meanwhile are noted."""
        self._id += 1
        self._socket.send(json.dumps({"id": self._id, "method": method, "params": params}))
        while True:
            message = json.loads(self._socket.recv(timeout=DEADLINE_S))
            if message.get("id") == self._id:
                assert "error" not in message, message["error"]
                return message["result"]
            self._note(message)

    def _note(self, event: dict[str, Any]) -> None:
        params = event.get("params", {})
        if event["method"] == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif event["method"] == "Runtime.exceptionThrown":
            self.said.append(params["exceptionDetails"].get("exception", {}).get("description", "exception"))
        elif event["method"] == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.said.append(params["entry"]["text"])

    def goto(self, url: str) -> None:
        self.call("Page.navigate", url=url)

    def js(self, expression: str) -> Any:
        """Value of an expression in the page."""
        made = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in made, made["exceptionDetails"]
        return made["result"].get("value")

    def until(self, expression: str, deadline_s: float = DEADLINE_S) -> None:
        """Wait for an expression to be true."""
        ends = time.monotonic() + deadline_s
        while not self.js(f"!!({expression})"):
            assert time.monotonic() < ends, f"{expression} did not come; the page says:\n{self.text()[-2000:]}\n{self.said}"
            time.sleep(0.05)

    def text(self, selector: str = "body") -> str:
        return self.js(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''")

    def shows(self, selector: str, text: str) -> None:
        """Wait until an element holds a text."""
        self.until(f"(document.querySelector({json.dumps(selector)})?.innerText ?? '').includes({json.dumps(text)})")

    def middle(self, selector: str, index: int = 0) -> tuple[float, float]:
        """Of an element that is scrolled to and shown."""
        found = f"document.querySelectorAll({json.dumps(selector)})[{index}]"
        seen = "const b = e.getBoundingClientRect(); return b.width ? [b.x + b.width / 2, b.y + b.height / 2] : null"
        box = f"(e => {{ e.scrollIntoView({{block: 'nearest'}}); {seen} }})({found})"
        self.until(f"!!{found} && !!{box}")
        last, now = None, self.js(box)
        while now != last:
            # what still moves would be missed
            time.sleep(0.05)
            last, now = now, self.js(box)
        x, y = now
        return x, y

    def hover(self, selector: str, index: int = 0) -> None:
        x, y = self.middle(selector, index)
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def click(self, selector: str, index: int = 0) -> None:
        x, y = self.middle(selector, index)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def type(self, text: str) -> None:
        """Into what has the focus."""
        self.call("Input.insertText", text=text)

    def press(self, key: str, modifiers: int = 0) -> None:
        code = {"Enter": 13, "Backspace": 8, "ArrowDown": 40, "Tab": 9, "a": 65}[key]
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            extra = text if kind == "keyDown" else {}
            self.call(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, modifiers=modifiers, **extra
            )

    def fill(self, selector: str, text: str) -> None:
        """Put a text into a field in place of what is there."""
        self.click(selector)
        self.js(f"document.querySelector({json.dumps(selector)}).select()")
        self.type(text)

    def picture(self, path: Path) -> None:
        """A PNG of what is seen."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def resize(self, width: int, height: int, dark: bool = False) -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def foreign(self, own: str) -> list[str]:
        """What was asked of anybody but `own`."""
        return [url for url in self.requests if not url.startswith((own, "data:", "blob:", "ws://" + own.split("://")[1]))]


@contextlib.contextmanager
def browser() -> Iterator[Tab]:
    """A new browser with one empty page, and nothing kept of it."""
    from websockets.sync.client import connect

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-port=0"]
        quiet = ["--no-first-run", "--disable-background-networking", "--disable-component-update", "--window-size=1400,900"]
        assert CHROMIUM
        process = subprocess.Popen(
            [CHROMIUM, *options, *quiet, f"--user-data-dir={home}", "about:blank"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            port = _port(Path(home) / "DevToolsActivePort", process)
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json", timeout=DEADLINE_S) as listed:
                page = next(each for each in json.load(listed) if each["type"] == "page")
            with connect(page["webSocketDebuggerUrl"], max_size=None) as socket:
                yield Tab(socket)
        finally:
            process.terminate()
            process.wait(timeout=DEADLINE_S)


def _port(file: Path, process: subprocess.Popen) -> int:
    ends = time.monotonic() + DEADLINE_S
    while not (file.is_file() and file.read_text().count("\n")):
        assert process.poll() is None and time.monotonic() < ends, "Chromium did not start"
        time.sleep(0.05)
    return int(file.read_text().splitlines()[0])
