"""Takes 1,000 and 2,000 streams at once of an engine of fixed latency, leaves what stands between adds: raylm's gateway (keys,
request rate and token rate on) beside vllm-router (Rust) and litellm's proxy, each in an environment of its own.

A token's time is known beforehand: 0.2 s after the request was due, then each 0.5 s. `added_p99_ms`: by how much the 99th of 100
tokens comes later than without anything between; `errors`: streams that were not whole. The client's own lateness is in both.

    python -m tests.bench.gateway_load [streams ...]
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import socket
import statistics
import subprocess
import sys
import time
from typing import Any, NamedTuple

from raylm.serve.keys import key_digest
from tests.bench.near_copies.peers import python_of
from tests.bench.serving.fixed_engine import EACH_S, FIRST_S, TOKENS

PEERS = {"vllm-router": ["vllm-router==0.1.17"], "litellm": ["litellm[proxy]"]}
RAMP_S, START_S, KEY = 2.0, 60.0, "a-key-of-this-benchmark"
BODY = json.dumps({"model": "raylm", "prompt": [1, 2], "max_tokens": TOKENS, "stream": True}).encode()
HEAD = (
    f"POST /v1/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\ncontent-type: application/json\r\n"
    f"content-length: {len(BODY)}\r\nconnection: close\r\n\r\n"
).encode()


class Found(NamedTuple):
    """Of one way at one number of streams."""

    errors: int
    late: list[float]
    """Seconds by which each token was late."""


async def load(port: int, streams: int) -> Found:
    """So many streams, begun over `RAMP_S`."""
    began, late, errors = time.perf_counter() + 0.1, list[float](), 0

    async def one(number: int) -> None:
        nonlocal errors
        due = began + RAMP_S * number / streams
        await asyncio.sleep(due - time.perf_counter())
        seen, text = 0, b""
        try:
            async with asyncio.timeout(60):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(HEAD + BODY)
                while chunk := await reader.read(65536):
                    now, text = time.perf_counter(), text + chunk
                    count = text.count(b'"text":')
                    late.extend(now - due - FIRST_S - at * EACH_S for at in range(seen, count))
                    seen = count
                    if b"[DONE]" in text:
                        break
                writer.close()
        except (OSError, TimeoutError):
            pass
        errors += seen != TOKENS or b" 200 " not in text[:20]

    await asyncio.gather(*(one(number) for number in range(streams)))
    return Found(errors, late)


def started(command: list[str], port: int, environment: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
    """A process that listens."""
    made = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, **(environment or {})}
    )
    until = time.monotonic() + START_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return made
        except OSError:
            assert made.poll() is None and time.monotonic() < until, f"{command[:3]} does not listen"
            time.sleep(0.2)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def ways(engine: int) -> dict[str, tuple[list[str], dict[str, str], int]]:
    """Commands of what stands between, and the port of each."""
    at = {name: free_port() for name in ("raylm", *PEERS)}
    url = f"http://127.0.0.1:{engine}"
    config = f"/tmp/raylm-litellm-{engine}.json"
    listed = {
        "model_name": "raylm",
        "litellm_params": {"model": "text-completion-openai/raylm", "api_base": url + "/v1", "api_key": "x"},
    }
    with open(config, "w") as file:
        json.dump({"model_list": [listed], "general_settings": {"master_key": KEY}}, file)
    router = str(python_of("vllm-router", *PEERS["vllm-router"]).parent / "vllm-router")
    proxy = str(python_of("litellm", *PEERS["litellm"]).parent / "litellm")
    ours = [sys.executable, "-m", "tests.bench.serving.gateway_alone", str(at["raylm"]), str(engine), key_digest(KEY)]
    listens = {name: ["--host", "127.0.0.1", "--port", str(port)] for name, port in at.items()}
    secret = {"LITELLM_MASTER_KEY": KEY, "LITELLM_LOG": "ERROR"}
    return {
        "raylm": (ours, {}, at["raylm"]),
        "vllm-router": ([router, "--worker-urls", url, *listens["vllm-router"]], {}, at["vllm-router"]),
        "litellm": ([proxy, "--config", config, *listens["litellm"]], secret, at["litellm"]),
    }


def version(name: str) -> str:
    """Of a peer, in its own environment."""
    ask = f"import importlib.metadata as found; print(found.version({name!r}))"
    return subprocess.check_output([str(python_of(name, *PEERS[name])), "-c", ask], text=True).strip()


def p99(late: list[float]) -> float:
    return statistics.quantiles(late, n=100)[98] if len(late) > 1 else float("inf")


def told(found: Found, direct: Found) -> dict[str, Any]:
    """Figures of one way."""
    added = p99(found.late) - p99(direct.late)
    return {
        "errors": found.errors,
        "added_p99_ms": round(1000 * added, 1),
        "p50_ms": round(1000 * statistics.median(found.late), 1),
    }


def main(counts: list[int]) -> None:
    """Run it, and print the line of JSON."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, 16384), hard), hard))
    engine = free_port()
    mock = started([sys.executable, "-m", "tests.bench.serving.fixed_engine", str(engine)], engine)
    figures: dict[str, dict[str, Any]] = {}
    try:
        direct = {streams: asyncio.run(load(engine, streams)) for streams in counts}
        for name, (command, environment, port) in ways(engine).items():
            made = started(command, port, environment)
            try:
                asyncio.run(load(port, 20))
                for streams in counts:
                    figures.setdefault(f"s{streams}", {})[name] = told(asyncio.run(load(port, streams)), direct[streams])
            finally:
                made.terminate()
                made.wait(20)
    finally:
        mock.terminate()
    most = figures[f"s{counts[-1]}"]
    ours, theirs = most["raylm"], most["litellm"]
    line = {
        "name": "gateway_load",
        "peer": "litellm's proxy",
        "peer_version": version("litellm"),
        "router_version": version("vllm-router"),
        "ours": ours["added_p99_ms"],
        "theirs": theirs["added_p99_ms"],
        "unit": "ms",
        "ratio": round(theirs["added_p99_ms"] / max(ours["added_p99_ms"], 0.1), 1),
        "goal": 1.0,
        "quality": {"errors": sum(each["raylm"]["errors"] for each in figures.values())},
        "ok": all(each["raylm"]["errors"] == 0 for each in figures.values()) and ours["added_p99_ms"] <= theirs["added_p99_ms"],
        "client_p99_ms": {f"s{streams}": round(1000 * p99(found.late), 1) for streams, found in direct.items()},
        **figures,
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main([int(each) for each in sys.argv[1:]] or [1000, 2000])
