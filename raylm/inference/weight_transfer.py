"""Weights from the trainer's first rank to generators, bucket by bucket through Ray's object store.

engine.stream() -> pack -> put -> every generator takes it      at most two buckets exist: one is taken while
                                                                the next one is filled
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple
from uuid import uuid4

from raylm.inference.buckets import WeightsDigest, pack
from raylm.inference.calls import GeneratorLost, answer_of

BUCKET_BYTES = 256 << 20
TICK_S = 1.0


class Sent(NamedTuple):
    """What became of a transfer."""

    digest: str
    lost: dict[int, str]
    """Generators that were lost on the way, by place, and how."""


def send_weights(
    named: Iterable[tuple[str, Any]],
    generators: list[Any],
    version: int,
    deadline_s: float,
    *,
    bucket_bytes: int = BUCKET_BYTES,
    names: list[str] | None = None,
    tick: Callable[[], None] = lambda: None,
) -> Sent:
    """Replace the weights of all `generators`, from the process that has them. One that is lost does not keep the others.

    Args:
        named: names (Hugging Face's) and tensors or arrays, asked for one by one.
        generators: handles of Generator actors.
        deadline_s: most seconds for one bucket.
        names: of all weights, where they are known beforehand: then a set that lacks some changes nothing.
        tick: called each second while this waits.

    Raises:
        RaylmError: what a generator raised. Those that the weights did not reach whole refuse to generate from now on.
    """
    import ray

    lost: dict[int, str] = {}
    running: dict[int, Any] = {}

    def ask(method: str, *args: Any) -> None:
        running.update({at: getattr(one, method).remote(*args) for at, one in enumerate(generators) if at not in lost})

    def wait(method: str) -> None:
        until = time.monotonic() + deadline_s
        while running:
            done, _ = ray.wait(list(running.values()), num_returns=len(running), timeout=TICK_S)
            tick()
            for at in [at for at, reference in running.items() if reference in done or time.monotonic() > until]:
                try:
                    # what is not done by now is too late
                    answer_of(running.pop(at), method, 1.0)
                except GeneratorLost as cause:
                    lost[at] = cause.what

    digest, transfer = WeightsDigest(), uuid4().hex
    ask("begin_weights", transfer, names)
    wait("begin_weights")
    for bucket in pack(named, bucket_bytes, digest):
        wait("take_weights")
        ask("take_weights", ray.put(bucket), transfer)
    wait("take_weights")
    ask("finish_weights", version, digest.hexdigest(), transfer)
    wait("finish_weights")
    return Sent(digest.hexdigest(), lost)
