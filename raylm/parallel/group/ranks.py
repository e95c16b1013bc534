"""The loop of one rank of a group: takes tasks from the mailbox, returns rows and results."""

from __future__ import annotations

import re
import traceback
from typing import Any

from raylm.core.errors import GroupLost, RaylmError, StageError
from raylm.parallel.group.hang import IDLE
from raylm.parallel.group.heartbeat import Heartbeat
from raylm.parallel.group.preemption import Leave, Notice

AGAIN = "the same command goes on from the last step checkpoint"
# how gloo says that the other side of a connection is gone; NCCL raises torch's own DistError
GONE = re.compile(r"gloo.*(Connection|connection|peer|Socket|timed out|Timed out)", re.DOTALL)


class Ranks:
    """What a task function is handed on every rank."""

    def __init__(self, rank: int, world: int, device: Any, mailbox: Any, heartbeat: Heartbeat) -> None:
        self.rank, self.world, self.device = rank, world, device
        self.heartbeat = heartbeat
        """Where a task marks its phases, and asks whether it is to leave."""
        self.held: dict[str, Any] = {}
        """Things kept from one task to the next; empty again in a restarted group."""
        self._mailbox = mailbox
        self._sent: Any = None
        self.task = -1

    def recall(self, key: str) -> Any:
        """What an earlier task of this group left in `held`. Raises GroupLost in a group that began anew since then."""
        if key not in self.held:
            raise GroupLost(f"this group of ranks began anew and holds no {key}", next=AGAIN)
        return self.held[key]

    def log(self, step: int, **values: Any) -> None:
        """Send one metrics row to the driver; only rank 0's are kept."""
        self._send("row", {"step": step, **values})

    def say(self, line: str) -> None:
        """Print one line at the driver; only rank 0's."""
        self._send("note", line)

    def rewind(self, step: int, rollback: bool = False) -> None:
        """Tell the driver that the run goes on from `step`: rows of later steps do not count.

        Args:
            rollback: this group itself went back; it is no new one.
        """
        self._send("rollback" if rollback else "rewind", step)

    def settle(self) -> None:
        """Wait until what was sent has arrived; the mailbox's threads would let a later word overtake it."""
        import ray

        if self._sent is not None:
            ray.get(self._sent)
            self._sent = None

    def _send(self, kind: str, values: Any) -> None:
        if self.rank == 0:
            self.settle()
            self._sent = self._mailbox.log.remote(self.task, (kind, values))


def serve_tasks(config: dict[str, Any]) -> None:
    """What Ray Train runs on every rank: take tasks until the mailbox says that there are no more."""
    import ray
    import torch
    from ray.train.torch import get_device

    mailbox = config["mailbox"]
    ranks = _joined(mailbox, get_device())
    if ranks.device.type == "cpu":
        torch.set_num_threads(max(1, int(config["cpus"])))
    while (work := ray.get(mailbox.next.remote(ranks.task))) is not None:
        ranks.task, (payload,) = work
        function, args = ray.get(payload)
        ranks.heartbeat.begin(ranks.task)
        how = "returned"
        try:
            result = function(ranks, *args)
        except Leave as cause:
            ranks.settle()
            if not ray.get(mailbox.leave.remote(ranks.task, cause.args[0])):
                raise  # Ray Train starts the group anew, elsewhere or larger, and the task is handed out again
            continue
        except GroupLost as lost:
            # all ranks of a fresh group find this alike, before they meet: none has to end because of it
            how, result = "lost", lost
        except Exception as cause:
            if _lost_a_peer(cause):
                raise  # no word to the driver: Ray Train starts the group anew, and the task is handed out again
            ranks.settle()
            ray.get(mailbox.finish.remote(ranks.task, ("raised", _packed(cause, ranks.rank))))
            raise  # the other ranks may wait in a collective: Ray Train ends them
        finally:
            ranks.heartbeat.mark(IDLE)
        ranks.settle()
        if ranks.rank == 0:
            ray.get(mailbox.finish.remote(ranks.task, (how, result)))
        # while this rank waits, it must not keep what the result refers to
        result = payload = args = None


def _joined(mailbox: Any, device: Any) -> Ranks:
    """This rank, known to the mailbox as one of this start's group."""
    import os
    import socket
    import uuid

    import ray
    from ray import train
    from ray.train import collective

    place, node = train.get_context(), ray.get_runtime_context().get_node_id()
    rank, world = place.get_world_rank(), place.get_world_size()
    group = collective.broadcast_from_rank_zero(uuid.uuid4().hex)
    ray.get(mailbox.join.remote(rank, world, group, socket.gethostname(), node, os.getpid()))
    return Ranks(rank, world, device, mailbox, Heartbeat(rank, world, group, mailbox, Notice.here))


def _lost_a_peer(cause: BaseException | None) -> bool:
    """Whether a collective failed because another rank is gone; that rank's end is the cause, not this one's code."""
    from torch.distributed import DistError

    while cause is not None:
        if isinstance(cause, DistError) or (isinstance(cause, RuntimeError) and GONE.search(str(cause))):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def _packed(cause: Exception, rank: int) -> RaylmError:
    if isinstance(cause, RaylmError):
        return cause
    last = traceback.extract_tb(cause.__traceback__)[-1]
    return StageError(
        f"{type(cause).__name__} on rank {rank}: {cause}",
        where=f"{last.filename}:{last.lineno}",
        next=AGAIN,
    )
