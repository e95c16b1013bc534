"""Warm processes that train proxies side by side; what is finished lies in files, so a run that was killed goes on."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

from raylm.core.errors import TrainingError
from raylm.core.storage import Folder
from raylm.mixture.proxy import DONE, Result

LOG = "processes.log"
END_S = 30.0
SILENT_S = 2 * 3600.0
"""Seconds in which some proxy must be finished."""


def finished(folder: Folder, name: str, digest: str) -> Result | None:
    """The proxy of that name, where it was made from just that; None where it was not, or is not there."""
    if not folder.exists(f"{name}.json"):
        return None
    found = Result(**folder.read_json(f"{name}.json"))
    return found if found.order == digest else None


class Pool:
    """Processes that stay warm from one call to the next; use as `with Pool(...) as pool`.

    Args:
        folder: on a local disk; a file for each finished proxy.
        processes: at the same time; each has `threads` cores.
    """

    def __init__(self, folder: Folder, processes: int, threads: int) -> None:
        self._folder, self._processes, self._threads = folder, processes, threads
        self._held: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *raised: Any) -> None:
        for process in self._held:
            if process.poll() is None:
                process.kill()
            process.wait(END_S)

    def train(self, orders: list[dict[str, Any]], heard: Callable[[Result], None]) -> list[Result]:
        """Every proxy, those that were finished before as they are.

        Args:
            heard: called with each result as it comes.

        Raises:
            TrainingError: a proxy failed; the others are kept.
        """
        found = {order["name"]: finished(self._folder, order["name"], order["digest"]) for order in orders}
        missing = [order for order in orders if found[order["name"]] is None]
        waiting: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        told: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        for order in missing:
            waiting.put(order)
        for result in filter(None, found.values()):
            heard(result)
        while len(self._held) < min(self._processes, len(missing)):
            self._held.append(_start(self._folder, self._threads))
        for process in self._held:
            threading.Thread(target=_feed, args=(process, waiting, told), daemon=True).start()
        for _ in missing:
            try:
                answer = told.get(timeout=SILENT_S)
            except queue.Empty:
                left = ", ".join(name for name, result in found.items() if result is None)
                raise TrainingError(
                    f"no proxy was finished for {SILENT_S / 3600:g} h; {left} are missing",
                    where=self._folder.path(LOG),
                    next="fewer --steps, or a smaller --proxy; the same command trains what is missing",
                ) from None
            if "error" in answer:
                raise TrainingError(
                    f"proxy {answer['name']} failed: {answer['error']}",
                    where=self._folder.path(LOG),
                    next="mend it, then the same command trains what is missing",
                )
            result = Result(**self._folder.read_json(f"{answer['name']}.json"))
            found[result.name] = result
            heard(result)
        return [result for order in orders if (result := found[order["name"]]) is not None]


def _start(folder: Folder, threads: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "raylm.mixture.proxy", folder.uri, str(threads)]
    with open(folder.path(LOG), "a") as log:
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True)


def _feed(process: subprocess.Popen[str], waiting: Any, told: Any) -> None:
    """One order after the other to one process, until there are no more."""
    assert process.stdin is not None and process.stdout is not None
    while True:
        try:
            order = waiting.get_nowait()
        except queue.Empty:
            return
        try:
            process.stdin.write(json.dumps(order) + "\n")
            process.stdin.flush()
            line = next((line for line in process.stdout if line.startswith(DONE)), None)
        except OSError:
            line = None
        if line is None:
            told.put({"name": order["name"], "error": f"its process ended with code {process.wait()}"})
            return
        told.put(json.loads(line.removeprefix(DONE)))
