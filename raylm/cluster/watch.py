"""Says when machines of a cluster are lost or join, while a job there is followed: Ray tells its driver of neither."""

from __future__ import annotations

import http.client
import json
import sys
import threading
import urllib.request
from collections.abc import Callable
from types import TracebackType
from typing import Any, NamedTuple

LOOK_S = 2.0


class Machine(NamedTuple):
    """One machine of a cluster, as its dashboard knows it."""

    node: str
    """Ray's id of it: a machine that was lost and comes back is another one."""
    address: str
    is_alive: bool
    why: str
    """Why it is dead; "" where nothing is known of that."""


def machines_at(dashboard: str, token: str | None) -> list[Machine] | None:
    """The machines that a cluster's dashboard knows, dead ones too; None where it cannot be asked."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(f"{dashboard}/api/v0/nodes?detail=1&limit=10000", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as reply:
            rows = json.load(reply)["data"]["result"]["result"]
            return [_machine(row) for row in rows]
    except (http.client.HTTPException, OSError, ValueError, LookupError, TypeError, AttributeError):
        return None


def _machine(row: dict[str, Any]) -> Machine:
    return Machine(row["node_id"], row["node_ip"], row["state"] == "ALIVE", row.get("state_message") or "")


class MachineWatch:
    """Looks at the machines every `LOOK_S` seconds, in a thread, from `with` to its end.

    Args:
        ask: the machines now, or None.
        say: called with one line for each machine that went or came.
    """

    def __init__(self, ask: Callable[[], list[Machine] | None], say: Callable[[str], None] | None = None) -> None:
        self._ask, self._say, self._over = ask, say or _print, threading.Event()
        self._alive: dict[str, Machine] | None = None
        self._thread = threading.Thread(target=self._watch, name="raylm-machines", daemon=True)

    def __enter__(self) -> MachineWatch:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()

    def look(self) -> None:
        """Compare with what was there before."""
        found = self._ask()
        if found is None:
            return
        now = {each.node: each for each in found if each.is_alive}
        before, self._alive = self._alive, now
        if before is None:
            return
        dead = {each.node: each.why for each in found if not each.is_alive}
        for node in before.keys() - now.keys():
            why = f" ({dead[node].strip().splitlines()[0][:200]})" if dead.get(node, "").strip() else ""
            self._say(f"machine {before[node].address} is lost{why}: {len(now)} of {len(before)} are left")
        for node in now.keys() - before.keys():
            self._say(f"machine {now[node].address} has joined: {len(now)} now")

    def _watch(self) -> None:
        while not self._over.wait(LOOK_S):
            self.look()


def _print(line: str) -> None:
    print(f"  {line}", file=sys.stderr, flush=True)
