"""Takes an endpoint under a steady load of valid and mutated requests of all routes, for an hour; leaves whether it leaked,
slowed down, or answered anything that is no envelope.

`RAYLM_SOAK_S` says for how many seconds. Memory is that of all processes of the endpoint (gateway, Control, replica, engine), as
the line through the samples of the second half; a half that grows by more than `MOST_MB` is a leak. Nobody else's endpoint is
asked the same: the peer is the endpoint itself in its first quarter, and the ratio is that of the times that valid requests took.

    python -m tests.bench.soak
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import statistics
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from raylm.core.artifact import Checkpoint
from raylm.core.storage import Folder
from raylm.core.workers import Workers
from tests.bench.serve_faults import Standing, context
from tests.serve.in_process import write_checkpoint
from tests.serve.mutations import Request, fault, requests

SECONDS = float(os.environ.get("RAYLM_SOAK_S", "3600"))
RATE, AT_ONCE, SAMPLE_S, SAMPLES_SHOWN, MOST_MB = 6.0, 32, 5.0, 12, 30.0
ZYGOTE = "raylm.inference.zygote"
PARTS = ("ray::", "VLLM::", "raylm::")
"""How the command lines of an endpoint's processes begin, but for its engine server and core, which a zygote forked."""


class Sample(NamedTuple):
    """Memory of each of the endpoint's processes at one moment, in MB; pages that several have in common are counted once."""

    seconds: float
    by_process: dict[str, float]

    @property
    def megabytes(self) -> float:
        return sum(self.by_process.values())


class Soak:
    """What was sent and what came of it."""

    def __init__(self, url: str, key: str) -> None:
        self.url, self.key = url.removesuffix("/v1"), key
        self.faults, self.counts = Counter[str](), Counter[int]()
        self.samples, self.valid = list[Sample](), list[tuple[float, float]]()
        self.began = time.monotonic()

    async def run(self, seconds: float) -> None:
        """Send `RATE` requests a second, whatever becomes of them."""
        import aiohttp

        headers = {"authorization": f"Bearer {self.key}", "content-type": "application/json"}
        places, under_way = asyncio.Semaphore(AT_ONCE), set[asyncio.Task[None]]()
        watching = asyncio.create_task(self._watch())
        async with aiohttp.ClientSession(headers=headers, timeout=aiohttp.ClientTimeout(total=120)) as session:
            for number, request in enumerate(requests(0, int(seconds * RATE), changed=0.5)):
                await asyncio.sleep(max(0.0, self.began + number / RATE - time.monotonic()))
                await places.acquire()
                sending = asyncio.create_task(self._send(session, request))
                under_way.add(sending)
                sending.add_done_callback(lambda task: (under_way.discard(task), places.release()))
            await asyncio.gather(*under_way)
        watching.cancel()

    async def _send(self, session: Any, request: Request) -> None:
        import aiohttp

        started = time.monotonic()
        try:
            async with session.post(self.url + request.path, data=request.body) as answer:
                body = await answer.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            self.faults[f"{type(error).__name__} | {request.path}"] += 1
            return
        self.counts[answer.status] += 1
        if wrong := fault(request, answer.status, answer.headers.get("content-type", ""), body):
            self.faults[f"{wrong} | {request.path} {request.body[:200]!r}"] += 1
        if request.is_valid:
            self.valid.append((started - self.began, time.monotonic() - started))

    async def _watch(self) -> None:
        while True:
            self.samples.append(latest := await asyncio.to_thread(_sample, time.monotonic() - self.began))
            if len(self.samples) % SAMPLES_SHOWN == 1:
                sizes = ", ".join(f"{name} {size:.0f}" for name, size in sorted(latest.by_process.items()))
                print(
                    f"{latest.seconds:.0f} s: {sum(self.counts.values())} answers, {latest.megabytes:.0f} MB: {sizes}", flush=True
                )
            await asyncio.sleep(SAMPLE_S)


def _sample(seconds: float) -> Sample:
    import psutil
    import ray

    # others may serve on this machine
    session, found = ray.get_runtime_context().get_session_name(), {}
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        forked = ZYGOTE in words
        if not forked and not " ".join(words).startswith(PARTS):
            continue
        with contextlib.suppress(psutil.Error):
            # what a zygote forked has its command line, which names the Ray node's process
            above = [psutil.Process(int(words[words.index(ZYGOTE) + 2]))] if forked else process.parents()
            if any(session in " ".join(each.cmdline()) for each in above):
                what = "engine's " + process.name() if forked else words[0].split()[0]
                found[f"{what} {process.pid}"] = process.memory_full_info().pss / 1e6
    return Sample(seconds, found)


def megabytes_grown(samples: list[Sample], process: str = "") -> float:
    """By the line through the second half, from its begin to its end; of all processes, or of one."""
    half = samples[len(samples) // 2 :]
    sizes = [each.by_process.get(process, 0.0) if process else each.megabytes for each in half]
    slope, _ = statistics.linear_regression([each.seconds for each in half], sizes)
    return slope * (half[-1].seconds - half[0].seconds)


def main() -> None:
    workers = Workers(wanted_cpus=2)
    with tempfile.TemporaryDirectory() as folder:
        root = Folder(folder)
        write_checkpoint(Path(folder) / "sft")
        checkpoint = context("sft", root, workers).commit(Checkpoint, facts={"dtype": "float32"})
        try:
            standing = Standing(workers, root, checkpoint, 1)
            soak = Soak(standing.url, str(standing.key))
            asyncio.run(soak.run(SECONDS))
            answers = standing.rows()
        finally:
            workers.stop()
    quarter = SECONDS / 4
    first = [took for at, took in soak.valid if at < quarter]
    last = [took for at, took in soak.valid if at >= SECONDS - quarter]
    theirs, ours = statistics.median(first), statistics.median(last)
    grown = megabytes_grown(soak.samples)
    for what, number in soak.faults.most_common(10):
        print(f"{number} times {what}")
    print(
        json.dumps(
            {
                "name": "soak",
                "peer": "the same endpoint in its first quarter",
                "peer_version": "",
                "ours": round(ours, 4),
                "theirs": round(theirs, 4),
                "unit": "s per valid request, median",
                "ratio": round(theirs / ours, 3),
                "goal": 0.8,
                "quality": {
                    "faults": sum(soak.faults.values()),
                    "answers": dict(sorted(soak.counts.items())),
                    "standing": answers,
                },
                "seconds": SECONDS,
                "megabytes": [round(soak.samples[0].megabytes), round(soak.samples[-1].megabytes)],
                "megabytes_in_second_half": round(grown, 1),
                "by_process": {
                    name: round(megabytes_grown(soak.samples, name), 1) for name in sorted(soak.samples[-1].by_process)
                },
                "processes": [len(soak.samples[0].by_process), len(soak.samples[-1].by_process)],
                "ok": not soak.faults and grown < MOST_MB and theirs / ours > 0.8,
            }
        )
    )


if __name__ == "__main__":
    main()
