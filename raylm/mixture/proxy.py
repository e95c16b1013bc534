"""Trains proxies one after the other in a process that stays warm: the train stage's own loop on one rank, without Ray.

orders (a JSON line each) --> this process: made_loop, run, loss of every target --> a file for each proxy
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from typing import Any, NamedTuple

from raylm.core.config import digest_of
from raylm.core.errors import RaylmError
from raylm.core.storage import Folder
from raylm.parallel.group.heartbeat import NoHeartbeat
from raylm.train.config import Train
from raylm.trainer.setup import Setup

DONE = "raylm-proxy "
"""Begins the line that tells of a finished order."""
LOOK_S = 1.0


class Target(NamedTuple):
    """Held-out rows on which a proxy is measured."""

    name: str
    uri: str
    kind: str
    weight: float


class Result(NamedTuple):
    """One finished proxy."""

    name: str
    shares: list[float]
    losses: dict[str, float]
    """Target -> mean loss of a counted token on its held-out rows, in nats."""
    parameters: int
    steps: int
    seconds: float
    order: str
    """Digest of all that it was made from."""


class Alone:
    """What `made_loop` is handed as ranks: one rank that nobody watches."""

    rank, world = 0, 1

    def __init__(self, device: str) -> None:
        import torch

        self.device = torch.device(device)
        self.heartbeat = NoHeartbeat()

    def log(self, step: int, **values: Any) -> None:
        """Nobody reads the curve."""

    def say(self, line: str) -> None:
        """To the log of the process."""
        print(line, file=sys.stderr)

    def rewind(self, step: int, rollback: bool = False) -> None:
        """Nobody has read what does not count."""


def order_of(name: str, cfg: Train, setup: Setup, targets: list[Target], rows: int, device: str) -> dict[str, Any]:
    """What a process is told of one proxy, plain JSON.

    Args:
        rows: held-out rows of each target.
    """
    order = {
        "name": name,
        "cfg": cfg.model_dump(mode="json"),
        "setup": setup.model_dump(mode="json"),
        "targets": [list(target) for target in targets],
        "rows": rows,
    }
    # where it lies is no part of what it is
    same = {**order, "setup": {**order["setup"], "out": "", "work": ""}, "name": ""}
    return {**order, "device": device, "digest": digest_of(same)}


def train_proxy(order: dict[str, Any]) -> Result:
    """Train one proxy and measure it on every target. Raises RaylmError as a train stage does."""
    from raylm.data.shards import Rows
    from raylm.train.batches import Batches
    from raylm.train.learner import keeps_apart, made_loop

    started = time.monotonic()
    cfg, setup = Train.model_validate(order["cfg"]), Setup.model_validate(order["setup"])
    ranks: Any = Alone(order["device"])
    loop, parameters, _ = made_loop(ranks, cfg, setup)
    loop.run()
    loop.cfg = loop.cfg.model_copy(update={"held_out_rows": order["rows"]})
    losses, micro = {}, cfg.micro_batch if isinstance(cfg.micro_batch, int) else 8
    for target in (Target(*one) for one in order["targets"]):
        there = setup.model_copy(update={"rows_uris": [target.uri], "rows_kind": target.kind})
        loop.held_out = Batches(
            Rows.open(target.uri, "held_out"),
            target.kind,
            batch=cfg.batch or 1,
            micro=micro,
            seed=cfg.seed,
            pad_id=setup.tokens["pad_token_id"],
            rank=0,
            world=1,
            device=ranks.device,
            document_mask=keeps_apart(cfg, there),
        )
        losses[target.name] = float(loop.evaluate()["held_out_loss"])
    Folder(setup.out).remove()
    shares = [part["weight"] for part in order["cfg"]["rows"]["parts"]]
    return Result(order["name"], shares, losses, parameters, setup.steps, time.monotonic() - started, order["digest"])


def main() -> None:
    """Take orders from standard input until it ends; each leaves `{name}.json` in the folder that was named first."""
    import torch

    folder, threads = Folder(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(threads)
    threading.Thread(target=_leave_with, args=(os.getppid(),), daemon=True).start()
    for line in sys.stdin:
        order = json.loads(line)
        told: dict[str, Any] = {"name": order["name"]}
        try:
            folder.write_json(f"{order['name']}.json", train_proxy(order)._asdict())
        except (RaylmError, RuntimeError, ValueError, OSError) as cause:
            told["error"] = f"{type(cause).__name__}: {' '.join(str(cause).split())}"
        print(DONE + json.dumps(told), flush=True)


def _leave_with(parent: int) -> None:
    """End this process when the one that gave it orders has ended, however that was."""
    while os.getppid() == parent:
        time.sleep(LOOK_S)
    os._exit(1)


if __name__ == "__main__":
    main()
