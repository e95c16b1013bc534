"""Watches the heartbeats of a group of ranks: one that hangs is replaced once; then the run ends with a hang report."""

from __future__ import annotations

import sys
import tempfile
import time
from typing import Any

from raylm.core.config import WorkerSpec
from raylm.core.errors import PlacementError
from raylm.core.room import Patience, Places, free, is_short
from raylm.core.storage import Folder
from raylm.core.workers import wait_for
from raylm.parallel.group import hang
from raylm.parallel.group.hang import Beat, Hang

LOOK_S = 2.0
ABSENT_S = 900.0
"""Seconds that a group may take to start, or to start again: a new machine may have to come first."""
ANSWER_S = 10.0


class Watch:
    """The driver's eye on one task.

    Args:
        spec: its `hang_s` is how long all ranks may stand still.
        aside: folder of the hang report; a temporary one when it is None.
        least: ranks without which no group starts.
        role: their role in the stage.
        alone, reserved: as for `Trainer`.
    """

    def __init__(
        self, mailbox: Any, spec: WorkerSpec, aside: Folder | None, least: int, alone: bool, reserved: Places | None, role: str
    ) -> None:
        self._mailbox, self._spec, self._aside, self._alone, self._reserved = mailbox, spec, aside, alone, reserved
        self._looked = self._seen = time.monotonic()
        self._before: Hang | None = None
        self._ranks, self._patience = {role: spec.role(count=least)}, Patience(f"the group of {role}")

    def look(self) -> None:
        """Look, if it is time. Raises PlacementError when no group came, or the ranks hang again in the same place."""
        now = time.monotonic()
        if now - self._looked < LOOK_S:
            return
        self._looked = now
        beats = wait_for(self._mailbox.beats.remote(), 60.0, "the mailbox of the ranks")
        if beats:
            self._seen = now
            self._patience.again()
        elif now - self._seen > ABSENT_S:
            raise PlacementError(
                f"{self._spec.count} ranks did not start within {ABSENT_S:.0f} s; the cluster has {free()}", next="raylm doctor"
            )
        elif self._lacks_room():
            self._patience.look(self._ranks)
        if hang.stands_still(beats, self._spec.hang_s):
            self._end(beats)

    def _lacks_room(self) -> bool:
        from ray.util.placement_group import placement_group_table

        if self._reserved is None:
            return not self._alone and is_short(self._ranks)
        return placement_group_table(self._reserved.group)["state"] != "CREATED"

    def _end(self, beats: list[Beat]) -> None:
        """Examine the group and end it; Ray Train starts a new one."""
        told = wait_for(self._mailbox.hang_report.remote(ANSWER_S), 60.0, "the hang report of the ranks")
        silent = [beat for beat in beats if beat.rank not in told]
        told |= dict(
            zip((beat.rank for beat in silent), self._on_hosts(hang.examine, [(b.node, b.pid) for b in silent]), strict=True)
        )
        found = hang.blame(beats, told)
        at = self._aside or Folder(tempfile.mkdtemp(prefix="raylm-hang-"))
        name = f"hang-step-{found.culprits[0].step}-{int(time.time())}.txt"
        at.write(name, hang.hang_report(found, beats, told))
        wait_for(self._mailbox.expect_new_group.remote(), 60.0, "the mailbox of the ranks")
        self._on_hosts(hang.end, [(beat.node, beat.pid) for beat in beats])
        if found.same(self._before):
            raise PlacementError(found.words(told), where=at.path(name), next="read the hang report: it has every rank's stacks")
        self._before = found
        print(f"  {found.words(told)}; a new group of ranks tries once more ({at.path(name)})", file=sys.stderr)

    def _on_hosts(self, function: Any, places: list[tuple[str, int]]) -> list[Any]:
        """`function(pid)` in a process on the pid's own host; what could not be asked is said in words."""
        import ray
        from ray.exceptions import RayError
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        asked = [
            ray.remote(function)
            .options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False))
            .remote(pid)
            for node, pid in places
        ]
        ray.wait(asked, num_returns=len(asked), timeout=3 * ANSWER_S) if asked else None
        found = []
        for one in asked:
            try:
                found.append(ray.get(one, timeout=0.1))
            except RayError as cause:
                found.append({"state": f"its host did not answer: {type(cause).__name__}"})
        return found
