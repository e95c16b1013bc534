"""Preemption notices: SIGTERM, a drained node, a notice file or URL, or the driver's order.

A rank that has a reason says so in the reduction of its next step; all ranks then write a step checkpoint and leave together.
"""

from __future__ import annotations

import http.client
import os
import signal
import threading
import urllib.request
from typing import Any, ClassVar

GRACE_S = 60.0
"""Seconds after SIGTERM within which a rank may write its checkpoint; then the process ends in any case."""


class Leave(Exception):
    """Raised on every rank, at the same step, after the checkpoint was written. `args[0]` is this rank's reason, if any."""


class Notice:
    """Why this process was asked to leave; empty as long as nothing asked.

    Args:
        at: a file that appears, or a URL that answers, before this machine is taken away (the metadata service of spot
            machines); None looks at nothing.
    """

    here: ClassVar[Notice]
    """That of this process, made before a rank's function starts."""

    def __init__(self, at: str | None = None) -> None:
        self.reason = ""
        self.busy = False
        """Whether a task runs that looks at `reason`; one that does not is ended by SIGTERM at once."""
        self._at = at
        # what stood there before this process began was meant for another one
        self._standing = at is not None and announced(at)

    def on_signal(self, number: int, frame: Any) -> None:
        """Handler of SIGTERM; a second one ends the process at once."""
        if self.reason or not self.busy:
            os._exit(128 + number)
        self.give(f"rank process {os.getpid()} received {signal.Signals(number).name}")
        timer = threading.Timer(GRACE_S, os._exit, (128 + number,))
        timer.daemon = True
        timer.start()

    def look(self) -> None:
        """Look at the notice file or URL, and at what Ray Train knows of this worker's node."""
        self._look_at()
        if drained := _drained():
            self.give(drained)

    def _look_at(self) -> None:
        if self._at is not None:
            stands = announced(self._at)
            if stands and not self._standing:
                self.give(f"a notice stands at {self._at}")
            self._standing = self._standing and stands

    def give(self, reason: str) -> None:
        """Take the first reason; later ones change nothing."""
        self.reason = self.reason or reason


def announced(at: str) -> bool:
    """Whether the file `at` is there, or the URL `at` answers 200 with something other than FALSE or NONE.

    https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-instance-termination-notices.html,
    https://cloud.google.com/compute/docs/instances/create-use-preemptible
    """
    if "://" not in at:
        return os.path.exists(at)
    request = urllib.request.Request(at, headers={"Metadata-Flavor": "Google"})
    try:
        with urllib.request.urlopen(request, timeout=1.0) as answer:
            return answer.read(64).strip().upper() not in (b"", b"FALSE", b"NONE")
    except (OSError, http.client.HTTPException):  # 404, refused, timed out, cut short: no notice
        return False


def _drained() -> str:
    """Ray drains a node of this group (spot notice of the autoscaler, `ray drain-node`): Ray Train tells every worker."""
    from raylm.parallel.group.ray_private import preempted_ranks

    ranks = preempted_ranks()
    return f"Ray takes away the node of ranks {ranks}" if ranks is not None else ""
