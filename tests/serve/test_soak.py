"""Mutated bodies of all routes against a tiny engine: it stays up, its memory stays flat, every answer is an envelope."""

from __future__ import annotations

import asyncio
import json
from collections import Counter

import pytest

from tests.serve.in_process import KEY, ask
from tests.serve.mutations import BODIES, HI, Request, fault, requests

COUNT = 1200
AT_ONCE = 8
GROWTH_MB = 200


def test_a_fault_is_seen():
    """What is looked for is found: an answer that leaks, or is of the wrong form, is none that passes."""
    request = Request("/v1/completions", b"{}", False)
    good = {"message": "x", "type": "invalid_request_error", "param": None, "code": "bad_request"}
    assert not fault(request, 400, "", json.dumps({"error": good}).encode())
    for wrong in ({**good, "message": "vLLM says no"}, {**good, "message": "/tmp/x/y"}, {**good, "type": "BadRequestError"}):
        assert fault(request, 400, "", json.dumps({"error": wrong}).encode())
    assert fault(request, 500, "", b"") and fault(request, 400, "", b"<html>") and fault(request, 400, "", b'{"detail": "x"}')
    assert fault(request._replace(path="/v1/messages"), 400, "", json.dumps({"error": good}).encode())
    assert fault(request._replace(is_valid=True), 400, "", json.dumps({"error": good}).encode())
    assert fault(request, 200, "text/event-stream", b'data: {"choices": []}\n\n')
    assert not fault(request, 200, "text/event-stream", b'data: {"choices": []}\n\ndata: [DONE]\n\n')


def test_mutations_are_the_same_for_a_seed():
    assert list(requests(5, 300)) == list(requests(5, 300)) != list(requests(6, 300))
    assert len({each.path for each in requests(5, 1000)}) == len({path for path, _ in BODIES})


@pytest.mark.vllm
@pytest.mark.slow
def test_nothing_that_is_sent_brings_it_down(tiny):
    import psutil

    process = psutil.Process()
    faults: Counter[str] = Counter()
    counts: Counter[int] = Counter()
    asyncio.run(_send(tiny.url, 0, COUNT // 4, faults, counts))
    before = process.memory_info().rss
    asyncio.run(_send(tiny.url, 1, COUNT, faults, counts))
    grown = (process.memory_info().rss - before) / 1e6
    print(dict(counts), f"{grown:.0f} MB more")
    assert not faults, "\n".join(f"{number} times {what}" for what, number in faults.most_common(20))
    assert min(counts[200], counts[400]) > COUNT / 10
    assert grown < GROWTH_MB
    assert ask(tiny.url, "/v1/chat/completions", {"model": "raylm", "messages": HI, "max_tokens": 2})[0] == 200


async def _send(url: str, seed: int, count: int, faults: Counter[str], counts: Counter[int]) -> None:
    import aiohttp

    headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
    places = asyncio.Semaphore(AT_ONCE)
    async with aiohttp.ClientSession(headers=headers, timeout=aiohttp.ClientTimeout(total=60)) as session:

        async def send(request: Request) -> None:
            async with places, session.post(url.removesuffix("/v1") + request.path, data=request.body) as answer:
                body = await answer.read()
                counts[answer.status] += 1
                if wrong := fault(request, answer.status, answer.headers.get("content-type", ""), body):
                    faults[f"{wrong} | {request.path} {request.body[:300]!r}"] += 1

        await asyncio.gather(*(send(each) for each in requests(seed, count)))
